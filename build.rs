//! Compiles migrations and SQL into the binary: rebuild when one changes, and list `sql/functions` in order of name.

use std::path::Path;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed=migrations");
    println!("cargo:rerun-if-changed=sql");
    let root = env::var("CARGO_MANIFEST_DIR").map_err(io::Error::other)?;
    let mut files = fs::read_dir(Path::new(&root).join("sql/functions"))?
        .map(|entry| Ok(entry?.path()))
        .filter(|path| path.as_ref().is_ok_and(|path| path.extension().is_some_and(|extension| extension == "sql")))
        .collect::<io::Result<Vec<_>>>()?;
    files.sort();
    let list: String = files.iter().map(|path| format!("include_str!({path:?}),\n")).collect();
    let out = env::var("OUT_DIR").map_err(io::Error::other)?;
    fs::write(Path::new(&out).join("functions.rs"), format!("&[\n{list}]"))
}
