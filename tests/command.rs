//! The binary as operators run it: its messages, exit codes and signals.

use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{ChildStdout, Command};
use tokio::time::timeout;

use crate::support::process::{binary, is_ready, serve, signal};
use crate::support::socket::Ending;
use crate::support::{Database, LIMIT, Socket, database, eventually};

/// Runs to the end: exit code, stdout, stderr.
async fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = timeout(LIMIT, binary().args(arguments).output()).await.expect("it never ended").unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_command_is_said_and_no_password_with_it() {
    let migrated = Database::new().await;
    let unmigrated = Database::empty().await;
    let serve = |url: &str, listen: &str, auth: &str| {
        ["serve", "--database-url", url, "--listen", listen, "--auth", auth].map(str::to_owned).to_vec()
    };
    let here = "127.0.0.1:0";
    let missing = migrated.url().replace(&migrated.name, "no_such_database").replace("parkmate@", "parkmate:geheim@");
    for (arguments, code, says) in [
        (
            serve("postgresql://u:geheim@127.0.0.1:1/x", here, "none"),
            1,
            "connecting to 127.0.0.1:1, database x: error connecting to server: Connection refused",
        ),
        (serve(&missing, here, "none"), 1, "database \"no_such_database\" does not exist"),
        (serve("geheim nonsense", here, "none"), 1, "postgresql://user:password@host:port/database"),
        (serve("http://u:geheim@127.0.0.1/x", here, "none"), 1, "postgresql://user:password@host:port/database"),
        (serve(&unmigrated.url(), here, "none"), 1, "run `parkmate-notifier migrate` first"),
        (
            serve("postgresql://u:geheim@127.0.0.1:1/x?connect_timeout=1&gssencmode=disable", here, "none"),
            1,
            "there is no parameter gssencmode; there are application_name,",
        ),
        (serve("postgresql://u:geh@eim@127.0.0.1:1/x", here, "none"), 1, "@ is written %40"),
        (
            serve("postgresql://u:geheim@127.0.0.1:1,127.0.0.1:2/x", here, "none"),
            1,
            "connecting to 127.0.0.1:1,127.0.0.1:2, database x: 127.0.0.1:1: error connecting to server: Connection refused \
             (os error 111); 127.0.0.1:2: error",
        ),
        (serve("host=a,b,c port=1,2 user=u password=geheim", here, "none"), 1, "each host has a port or all have one"),
        (serve("postgresql://u:geheim@127.0.0.1:1/x?sslmode=verify-full", here, "none"), 1, "needs sslrootcert"),
        (serve(&migrated.url(), "0.0.0.0:0", "none"), 1, "--auth none lets anyone read anyone"),
        (serve(&migrated.url(), "[::]:0", "none"), 1, "listen on 127.0.0.1"),
        (
            [serve(&migrated.url(), here, "none"), vec!["--retention".to_owned(), "23h".to_owned()]].concat(),
            1,
            "--retention 23h is shorter than --replay-window 1day",
        ),
        (
            [serve(&migrated.url(), here, "none"), vec!["--retention".to_owned(), "15d".to_owned()]].concat(),
            2,
            "1h to 14d",
        ),
        (
            [serve(&migrated.url(), here, "none"), vec!["--client-address=forwarded".to_owned()]].concat(),
            1,
            "Name the proxy with --trusted-proxy",
        ),
        (
            [serve(&migrated.url(), here, "none"), vec!["--trusted-proxy=10.0.0.0/8,::1".to_owned()]].concat(),
            1,
            "say with --client-address",
        ),
        (
            [serve(&migrated.url(), here, "none"), vec!["--trusted-proxy=10.0.0.0/64".to_owned()]].concat(),
            2,
            "an address or a network",
        ),
        ([serve(&migrated.url(), here, "none"), vec!["--auth-cache=6m".to_owned()]].concat(), 2, "0s to 5m"),
        (
            [serve(&migrated.url(), here, "none"), vec!["--tls-cert=cert.pem".to_owned()]].concat(),
            1,
            "TLS needs both files",
        ),
        (
            [
                serve(&migrated.url(), here, "none"),
                ["--tls-cert=/no/cert", "--tls-key=/no/key"].map(str::to_owned).to_vec(),
            ]
            .concat(),
            1,
            "--tls-cert /no/cert",
        ),
        (
            [serve(&migrated.url(), here, "none"), vec!["--max-sockets-per-user=0".to_owned()]].concat(),
            2,
            "0 is not in 1..",
        ),
        (
            [serve(&migrated.url(), here, "none"), vec!["--max-head-bytes=100".to_owned()]].concat(),
            2,
            "8192 to 1048576 bytes",
        ),
        ([serve(&migrated.url(), here, "none"), vec!["--head-time=1h".to_owned()]].concat(), 2, "100ms to 5m"),
        (serve(&migrated.url(), here, "trust"), 2, "invalid value 'trust' for '--auth <AUTH>'"),
        (["serve", "--database-url", &migrated.url(), "--listen", here].map(str::to_owned).to_vec(), 2, "--auth"),
        (serve(&migrated.url(), "127.0.0.1", "none"), 2, "invalid socket address"),
        (
            vec!["migrate".to_owned(), "--database-url".to_owned(), "postgresql://u:geheim@127.0.0.1:1/x".to_owned()],
            1,
            "Connection refused",
        ),
    ] {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let (status, stdout, stderr) = run(&arguments).await;
        assert_eq!(status, Some(code), "{arguments:?}\n{stderr}");
        assert!(stderr.contains(says), "{arguments:?}\n{stderr}");
        assert!(!stdout.contains("geheim") && !stderr.contains("geheim"), "{arguments:?}\n{stderr}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn migrate_says_what_it_did() {
    let database = Database::empty().await;
    let (status, stdout, _) = run(&["migrate", "--database-url", &database.url()]).await;
    assert_eq!(status, Some(0));
    assert!(stdout.contains("applied V1__state") && stdout.contains("0 events generated again"), "{stdout}");
    let (status, stdout, _) = run(&["migrate", "--database-url", &database.url()]).await;
    assert_eq!(status, Some(0));
    assert!(!stdout.contains("applied V1__state"), "{stdout}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_closes_the_sockets_with_1012_and_ends() {
    let database = Database::new().await;
    let mut command = binary();
    command
        .arg("serve")
        .env("NOTIFIER_DATABASE_URL", database.url())
        .env("NOTIFIER_LISTEN", "127.0.0.1:0")
        .env("NOTIFIER_AUTH", "none");
    let (mut child, address, _log) = serve(command).await;
    let mut sockets = Vec::new();
    for n in 0..50 {
        sockets.push(Socket::open(address, &n.to_string()).await);
    }
    // One that reads nothing any more must not hold up the end.
    let stuck = Socket::open(address, "8").await;
    database.run("select notifier.send('8', 'info', repeat('x', 60000)) from generate_series(1, 50)").await;
    let told = std::time::Instant::now();
    signal(&child, "-TERM");
    for socket in &mut sockets {
        if socket.user != "8" {
            assert_eq!(socket.ending().await, Ending::Closed(1012));
        }
    }
    let status = timeout(LIMIT, child.wait()).await.expect("it never ended").unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(told.elapsed().as_secs() < 30, "it took {:?}", told.elapsed());
    drop(stuck);
}

/// The demo is a whole system, and nothing of it stays when it is killed the hard way.
#[tokio::test(flavor = "multi_thread")]
async fn the_demo_runs_and_leaves_nothing_behind_when_killed() {
    use std::os::unix::fs::PermissionsExt;
    let temporary = tempfile::tempdir().unwrap();
    std::fs::set_permissions(temporary.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let mut child = binary().args(["demo", "--listen", "127.0.0.1:0"]).env("TMPDIR", temporary.path()).spawn().unwrap();
    let mut lines: Lines<BufReader<ChildStdout>> = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut address = None;
    let mut url = None;
    timeout(LIMIT, async {
        while url.is_none() {
            let line = lines.next_line().await.unwrap().expect("the demo ended");
            if let Some((_, rest)) = line.split_once("http://") {
                address = Some(rest.trim_end_matches('/').parse().unwrap());
            }
            if let Some((_, rest)) = line.split_once("psql '") {
                url = rest.split('\'').next().map(str::to_owned);
            }
        }
    })
    .await
    .expect("the demo never started");
    let (address, url): (std::net::SocketAddr, String) = (address.unwrap(), url.unwrap());
    let mut dora = Socket::open(address, "7").await;
    let done =
        reqwest::Client::new().post(format!("http://{address}/demo/actions/booking.declined")).send().await.unwrap();
    assert_eq!(done.json::<serde_json::Value>().await.unwrap()["rows"], 1);
    assert_eq!(dora.frame().await["event"], "booking.declined");

    let app = database::connect(&url).await;
    let postmaster: i32 =
        app.query_one("select pg_postmaster_start_time(), current_setting('port')::int", &[]).await.unwrap().get(1);
    child.kill().await.unwrap();
    assert_eq!(child.wait().await.unwrap().signal(), Some(9));
    let nothing_left = || async { std::fs::read_dir(temporary.path()).unwrap().next().is_none() };
    eventually("its folder is gone", nothing_left).await;
    eventually("its Postgres is gone", || async {
        tokio::net::TcpStream::connect(("127.0.0.1", postmaster as u16)).await.is_err()
    })
    .await;
}

/// LISTEN through a pool in transaction mode is accepted and never heard: the service finds out and says it in so many words.
#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_in_transaction_mode_is_called_by_its_name() {
    let Some(pgbouncer) =
        ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"].into_iter().find(|path| std::path::Path::new(path).exists())
    else {
        println!("skipped: no pgbouncer: install the package pgbouncer");
        return;
    };
    let database = Database::new().await;
    let port = database.url().split(':').nth(2).unwrap().split('/').next().unwrap().to_owned();
    let folder = tempfile::tempdir().unwrap();
    let own = crate::support::server::free_port();
    let config = folder.path().join("pgbouncer.ini");
    std::fs::write(
        &config,
        format!(
            "[databases]\n* = host=127.0.0.1 port={port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {own}\n\
                 unix_socket_dir =\nauth_type = any\npool_mode = transaction\n[users]\n"
        )
        .replace("* = host", &format!("{} = user=parkmate host", database.name)),
    )
    .unwrap();
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut pooler = Command::new(pgbouncer);
    if std::process::Command::new("id").arg("-u").output().unwrap().stdout == b"0\n" {
        // It refuses root.
        let id = |flag| {
            String::from_utf8(std::process::Command::new("id").args([flag, "nobody"]).output().unwrap().stdout).unwrap()
        };
        pooler.uid(id("-u").trim().parse().unwrap()).gid(id("-g").trim().parse().unwrap());
    }
    let _pooler = pooler.arg(&config).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap();
    eventually("the pooler answers", || async { tokio::net::TcpStream::connect(("127.0.0.1", own)).await.is_ok() })
        .await;

    let url = format!("postgresql://parkmate@127.0.0.1:{own}/{}", database.name);
    let mut command = binary();
    command.args(["serve", "--database-url", &url, "--listen", "127.0.0.1:0", "--auth", "none"]);
    let (_child, address, _log) = serve(command).await;
    eventually("readiness names the pooler", || async {
        let response = reqwest::get(format!("http://{address}/readyz")).await.unwrap();
        response.status() == 503 && response.text().await.unwrap().contains("a pooler in transaction mode (pgbouncer")
    })
    .await;
}

/// It would be taken for a module's name, and warnings be lost with all else.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_asked_for_by_no_known_word_is_refused() {
    for (asked, says) in [("debg", "off, error, warn, info, debug or trace"), ("info,hyper=loud", "which is no filter")]
    {
        let output = binary().env("NOTIFIER_LOG", asked).args(["check", "--database-url", "x"]).output().await.unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && error.contains(says) && error.contains(asked), "{error}");
    }
    // Nothing is what nobody asked for.
    let output = binary().env("NOTIFIER_LOG", "").args(["check", "--database-url", "x"]).output().await.unwrap();
    assert!(String::from_utf8(output.stderr).unwrap().contains("the database URL is malformed"));
}

/// A log that nobody reads any more is no reason to go on or to fall over.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_reads_hinders_nothing() {
    let database = Database::new().await;
    let mut command = binary();
    command.args(["serve", "--database-url", &database.url(), "--listen", "127.0.0.1:0", "--auth", "none"]);
    command.env("NOTIFIER_LOG", "debug");
    let (mut child, address, log) = serve(command).await;
    drop(log);
    let mut socket = Socket::open(address, "8").await;
    database.write("update payment set status = 'verified' where id = 204").await;
    assert_eq!(socket.frame().await["event"], "payment.verified");
    signal(&child, "-TERM");
    assert_eq!(socket.ending().await, Ending::Closed(1012));
    let status = timeout(LIMIT, child.wait()).await.expect("it never ended").unwrap();
    assert_eq!(status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn check_says_what_broke_and_fails_when_somebody_is_not_told() {
    let database = Database::new().await;
    let url = database.url();
    let arguments = ["check", "--database-url", &url];
    let (code, out, _) = run(&arguments).await;
    assert_eq!(code, Some(0));
    assert_eq!(out, "note: no service has read this database yet\n  Start `parkmate-notifier serve`.\n");

    let mut command = binary();
    command.args(["serve", "--database-url", &url, "--listen", "127.0.0.1:0", "--auth", "none"]).stderr(Stdio::piped());
    let (_serving, address, _log) = serve(command).await;
    eventually("it listens", || is_ready(address)).await;
    let (code, out, _) = run(&arguments).await;
    assert_eq!((code, out.starts_with("all is well: 127.0.0.1:")), (Some(0), true), "{out}");

    database.run("alter table public.carwash rename column status to state").await;
    let (code, out, error) = run(&arguments).await;
    assert_eq!(code, Some(1));
    assert!(
        out.starts_with("error: carwash.completed: the query cannot run: column changed.status does not exist\n  "),
        "{out}"
    );
    assert!(error.contains("1 error: somebody is not told"), "{error}");

    let unmigrated = Database::empty().await;
    let (code, _, error) = run(&["check", "--database-url", &unmigrated.url()]).await;
    assert_eq!((code, error.contains("run `parkmate-notifier migrate` first")), (Some(1), true), "{error}");
}
