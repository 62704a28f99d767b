//! Compiles migrations and SQL into the binary: rebuild when one changes, and list `sql/functions/*` in order of name.

use std::path::Path;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed=migrations");
    println!("cargo:rerun-if-changed=sql");
    let root = env::var("CARGO_MANIFEST_DIR").map_err(io::Error::other)?;
    let mut files = Vec::new();
    for folder in fs::read_dir(Path::new(&root).join("sql/functions"))? {
        for file in fs::read_dir(folder?.path())? {
            files.push(file?.path());
        }
    }
    files.retain(|path| path.extension().is_some_and(|extension| extension == "sql"));
    files.sort_by(|a, b| a.file_name().cmp(&b.file_name()));
    let list: String = files.iter().map(|path| format!("include_str!({path:?}),\n")).collect();
    let out = env::var("OUT_DIR").map_err(io::Error::other)?;
    fs::write(Path::new(&out).join("functions.rs"), format!("&[\n{list}]"))
}
