//! TLS at the socket, with certificates made here.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStderr};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::frames::closes_with;
use super::{answer, ask, connect, ended};
use crate::support::authority::Authority;
use crate::support::process::{binary, serve, signal};
use crate::support::{Database, LIMIT, eventually};

/// Certificates of an authority, and a folder with what it signed last.
struct Certificates {
    authority: Authority,
    folder: TempDir,
}

impl Certificates {
    fn new() -> Self {
        Self { authority: Authority::new("an authority"), folder: tempfile::tempdir().unwrap() }
    }

    /// Signs a new certificate, and leaves it where the service finds it.
    fn sign(&self) -> CertificateDer<'static> {
        let signed = self.authority.server(&["127.0.0.1"]);
        std::fs::write(self.certificate(), &signed.certificate).unwrap();
        std::fs::write(self.key(), &signed.key).unwrap();
        CertificateDer::from_pem_slice(signed.certificate.as_bytes()).unwrap()
    }

    fn certificate(&self) -> std::path::PathBuf {
        self.folder.path().join("cert.pem")
    }

    fn key(&self) -> std::path::PathBuf {
        self.folder.path().join("key.pem")
    }

    /// A connection that trusts this authority alone, and what the service showed.
    async fn connect(
        &self,
        to: SocketAddr,
        protocols: &[&str],
    ) -> std::io::Result<(TlsStream<TcpStream>, CertificateDer<'static>)> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.certificate.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let tcp = TcpStream::connect(to).await.unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
        let shown = stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned();
        Ok((stream, shown))
    }

    /// The service with what was signed last.
    async fn serve(&self, database: &Database) -> (Child, SocketAddr, Lines<BufReader<ChildStderr>>) {
        let path = |path: &Path| path.to_str().unwrap().to_owned();
        let mut command = binary();
        command.args(["serve", "--auth", "none", "--database-url", &database.url(), "--listen", "127.0.0.1:0"]).args([
            "--tls-cert",
            &path(&self.certificate()),
            "--tls-key",
            &path(&self.key()),
            "--handshake-time",
            "5s",
        ]);
        serve(command).await
    }

    /// Asks over TLS. Nothing where the two took too long to greet each other.
    async fn get(&self, to: SocketAddr, path: &str) -> String {
        let Ok((mut stream, _)) = self.connect(to, &["http/1.1"]).await else { return String::new() };
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        String::from_utf8(ended(&mut stream).await).unwrap()
    }
}

/// Reads frames until a text has come.
async fn told(stream: &mut TlsStream<TcpStream>, read: &mut Vec<u8>, text: &str) {
    let reading = async {
        while !read.windows(text.len()).any(|part| part == text.as_bytes()) {
            assert!(stream.read_buf(read).await.unwrap() > 0, "it ended before {text:?}");
        }
    };
    timeout(LIMIT, reading).await.unwrap_or_else(|_| panic!("never told {text:?}"));
}

async fn says(log: &mut Lines<BufReader<ChildStderr>>, text: &str) -> String {
    let reading = async {
        loop {
            let line = log.next_line().await.unwrap().expect("it ended");
            if line.contains(text) {
                return line;
            }
        }
    };
    timeout(LIMIT, reading).await.unwrap_or_else(|_| panic!("never said {text:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_over_tls_outlives_the_certificate_it_began_with() {
    let database = Database::new().await;
    let certificates = Certificates::new();
    let first = certificates.sign();
    let (child, to, mut log) = certificates.serve(&database).await;
    eventually("the service listens", || async { certificates.get(to, "/readyz").await.starts_with("HTTP/1.1 200") })
        .await;
    let (mut socket, shown) = certificates.connect(to, &["h2", "http/1.1"]).await.unwrap();
    assert_eq!((shown, socket.get_ref().1.alpn_protocol()), (first.clone(), Some(&b"http/1.1"[..])));
    let opened = ask(&mut socket, "8", "").await.unwrap();
    assert_eq!(opened.status, 101);
    assert!(opened.header("set-cookie").unwrap().ends_with("; Secure"), "{opened:?}");
    let mut read = opened.rest;
    told(&mut socket, &mut read, "\"connected\":true").await;
    database.write("update payment set status = 'verified' where id = 204").await;
    told(&mut socket, &mut read, "payment.verified").await;

    // Another one, from now on.
    let second = certificates.sign();
    assert_ne!(first, second);
    signal(&child, "-HUP");
    let line = says(&mut log, "TLS certificate read").await;
    assert!(line.contains("not_after=4096-01-01T00:00:00Z"), "{line}");
    eventually("the new one is shown", || async { certificates.connect(to, &[]).await.unwrap().1 == second }).await;
    database.run("select notifier.send('8', 'info', 'after the new certificate')").await;
    told(&mut socket, &mut read, "after the new certificate").await;

    // One that is no good is said, and not used.
    std::fs::write(certificates.certificate(), "half a certif").unwrap();
    signal(&child, "-HUP");
    let line = says(&mut log, "the old one stays").await;
    assert!(line.contains("no certificate in it"), "{line}");
    assert_eq!(certificates.connect(to, &[]).await.unwrap().1, second);
    // It closes as one without TLS does.
    signal(&child, "-TERM");
    let rest = ended(&mut socket).await;
    read.extend(rest);
    assert!(closes_with(&read, 1012), "{read:x?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_tls_gets_nothing() {
    let database = Database::new().await;
    let certificates = Certificates::new();
    certificates.sign();
    let (_child, to, _log) = certificates.serve(&database).await;
    let garbage: Vec<u8> = (0..2_000_u32).map(|n| (n * 7) as u8).collect();
    for bytes in [&b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"[..], &garbage, &[0x16, 3, 1, 2], b""] {
        let mut stream = connect([127, 0, 11, 1], to).await;
        stream.write_all(bytes).await.unwrap();
        assert!(!ended(&mut stream).await.starts_with(b"HTTP"), "{bytes:?}");
    }
    assert!(certificates.connect(to, &["h2"]).await.is_err(), "a client that speaks HTTP/2 only");
    assert!(Certificates::new().connect(to, &[]).await.is_err(), "a client that trusts somebody else");
    let refused = || async {
        let metrics = certificates.get(to, "/metrics").await;
        let counted = metrics.lines().find_map(|line| line.strip_prefix("notifier_refused_total{reason=\"tls\"} "));
        counted.is_some_and(|count| count.parse::<u64>().unwrap() >= 6)
    };
    eventually("they are counted", refused).await;
    // Who is slow is closed, and nobody waits for it.
    let mut silent = connect([127, 0, 11, 1], to).await;
    let mut stream = certificates.connect(to, &[]).await.unwrap().0;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert_eq!(answer(&mut stream).await.unwrap().status, 200);
    ended(&mut silent).await;
}

/// TLS takes what is written before the kernel does: that is no progress, and waiting for it no standstill.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_link_under_tls_is_waited_for_as_long_as_it_makes_progress() {
    let database = Database::new().await;
    let certificates = Certificates::new();
    certificates.sign();
    let (_child, to, _log) = certificates.serve(&database).await;
    eventually("the service listens", || async { certificates.get(to, "/readyz").await.starts_with("HTTP/1.1 200") })
        .await;
    let slow = crate::support::slow_link::to(to, 8_000).await;
    let (mut socket, _) = certificates.connect(slow, &["http/1.1"]).await.unwrap();
    let opened = ask(&mut socket, "8", "").await.unwrap();
    let mut read = opened.rest;
    told(&mut socket, &mut read, "\"connected\":true").await;
    database
        .run("select notifier.send('8', 'info', 'n' || n || repeat('x', 15000)) from generate_series(1, 14) n")
        .await;
    told(&mut socket, &mut read, "n14x").await;
}
