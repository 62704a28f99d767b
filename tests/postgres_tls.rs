//! TLS to Postgres: who is believed, what is shown, and what is said when that fails.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use parkmate_notifier::store::{DatabaseUrl, Store};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::authority::{Authority, Signed};
use crate::support::process;
use crate::support::server::Server;
use crate::support::{Service, Socket, database, eventually};

/// What Postgres' own manual makes with OpenSSL before 3.2: X.509 version 1, without a subjectAltName.
const OLD: (&str, &str) = (
    "-----BEGIN CERTIFICATE-----
MIIBJDCBywIUHn6YOtmBcUVjMCCL6e/B0RyLTXgwCgYIKoZIzj0EAwIwFDESMBAG
A1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyMzE0NTAzNVoYDzIxMjYxMDMwMTQ1MDM1
WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC
AARVCEO3dgps5v1dMObz3HzsXMfnjKAxaOGQtNqSYzYhs59q33+Zq2bo5vpKReNe
LvHD2Z3pnZd7d/d3afZjQBUzMAoGCCqGSM49BAMCA0gAMEUCIQDZclHjNHO2oWMD
HYw1gsjwI1ZqLDqlgqN5FbAaLcQzvgIgZ3gHsAVPqbnYbr5kuYeqZ+KL2VLTZ67R
Xe7v+/gYHKA=
-----END CERTIFICATE-----
",
    "-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgb1wDKl01Y+crPqqw
6r0f27QPLAIkQgwIgMuDzk7wY6ehRANCAARVCEO3dgps5v1dMObz3HzsXMfnjKAx
aOGQtNqSYzYhs59q33+Zq2bo5vpKReNeLvHD2Z3pnZd7d/d3afZjQBUz
-----END PRIVATE KEY-----
",
);

/// Who may come in which way: the tests themselves without TLS.
const HBA: &str = "
local     all all                             trust
hostnossl all postgres,parkmate,parking_app all trust
hostnossl all plain all                       trust
hostnossl all scram all                       scram-sha-256
hostssl   all service all                     scram-sha-256 clientcert=verify-full
hostssl   all encrypted all                   trust
hostssl   all password all                    scram-sha-256
";

const ROLES: &str = "
create role plain login in role parkmate;
create role scram login password 'geheim' in role parkmate;
create role encrypted login in role parkmate;
create role password login password 'geheim' in role parkmate;
create role service login password 'geheim' in role parkmate";

/// A server that speaks TLS, and the files that somebody who connects to it has.
struct Place {
    server: Server,
    authority: Authority,
    files: TempDir,
}

impl Place {
    /// The server's certificate is for `localhost` and 127.0.0.1.
    async fn new() -> Self {
        let server = Server::start(&["unix_socket_directories = '/tmp'", "ssl_ca_file = 'ca.crt'"]).await;
        let authority = Authority::new("the company");
        let files = tempfile::tempdir().unwrap();
        let mut place = Self { server, authority, files };
        let admin = place.server.superuser("app").await;
        admin.batch_execute(ROLES).await.unwrap();
        place.server.put("pg_hba.conf", HBA);
        place.server.put("ca.crt", &place.authority.certificate);
        place.keep("ca.pem", &place.authority.certificate);
        let client = place.authority.client("service");
        place.keep("client.pem", &client.certificate);
        place.keep("client.key", &client.key);
        admin.batch_execute("alter system set ssl = on").await.unwrap();
        place.present(&place.authority.server(&["localhost", "127.0.0.1"])).await;
        place
    }

    /// From now on the server has this certificate.
    async fn present(&mut self, signed: &Signed) {
        self.server.put("server.crt", &signed.certificate);
        self.server.put("server.key", &signed.key);
        self.server.end("INT");
        self.server.start_again().await;
    }

    /// A file that only this user reads.
    fn keep(&self, name: &str, text: &str) -> PathBuf {
        let (path, new) = (self.path(name), self.path("new"));
        fs::write(&new, text).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(new, &path).unwrap();
        path
    }

    fn path(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// An address, in whose parameters `{}` is the folder with the files.
    fn url(&self, user: &str, host: &str, parameters: &str) -> String {
        let parameters = parameters.replace("{}", &self.files.path().display().to_string());
        format!("postgresql://{user}:geheim@{host}:{}/app?application_name=it&{parameters}", self.server.port())
    }

    /// Connects; says whether with TLS, or what is wrong.
    async fn connect(&self, user: &str, host: &str, parameters: &str) -> Result<bool, String> {
        is_encrypted(&self.url(user, host, parameters)).await
    }

    /// What is wrong.
    async fn refusal(&self, user: &str, host: &str, parameters: &str) -> String {
        let said = self.connect(user, host, parameters).await.expect_err(parameters);
        assert!(!said.contains("geheim") && !said.contains("PRIVATE KEY-----\nM"), "{said}");
        said
    }
}

/// Connects to an address; says whether with TLS, as the server sees it, or what is wrong.
async fn is_encrypted(url: &str) -> Result<bool, String> {
    let url: DatabaseUrl = url.parse().unwrap();
    let words = |error: anyhow::Error| format!("{error:#}");
    let mut link = Store::new(&url, 2).map_err(words)?.link().await.map_err(words)?;
    let rows = link.query("select ssl from pg_stat_ssl where pid = pg_backend_pid()").await.map_err(words)?;
    Ok(rows[0].get(0) == Some("t"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_service_works_over_verified_tls_and_certificates_are_renewed_beside_it() {
    let mut place = Place::new().await;
    let url = place.url(
        "service",
        "localhost",
        "sslmode=verify-full&sslrootcert={}/ca.pem&sslcert={}/client.pem&sslkey={}/client.key&channel_binding=require",
    );
    let store = Store::new(&url.parse().unwrap(), 2).unwrap();
    store.migrate().await.expect("migrate");
    store.check().await.expect("check");
    let service = Service::at(&url).await;
    let mut socket = Socket::open(service.address, "7").await;
    let app = database::connect(&place.server.place().url("parking_app")).await;
    app.batch_execute("update payment set status = 'verified' where id = 201").await.unwrap();
    assert_eq!(socket.frame().await["event"], "payment.verified");

    // Every session of the service is encrypted, shows the certificate, and was bound to the server's.
    let sessions = "select count(*), count(*) filter (where s.ssl and s.client_dn = '/CN=service')
                    from pg_stat_activity a join pg_stat_ssl s using (pid) where a.application_name = 'it'";
    let admin = place.server.superuser("app").await;
    let row = admin.query_one(sessions, &[]).await.unwrap();
    let (all, verified): (i64, i64) = (row.get(0), row.get(1));
    assert!(all > 2 && verified == all, "{verified} of {all}");

    // Another authority, and the files that name it put in the place of the old ones: nobody restarts the service.
    place.authority = Authority::new("the new company");
    let client = place.authority.client("service");
    for (name, text) in
        [("ca.pem", &place.authority.certificate), ("client.pem", &client.certificate), ("client.key", &client.key)]
    {
        place.keep(name, text);
    }
    place.server.put("ca.crt", &place.authority.certificate);
    place.present(&place.authority.server(&["localhost"])).await;
    eventually("the service listens again", || service.is_ready()).await;
    let app = database::connect(&place.server.place().url("parking_app")).await;
    app.batch_execute("update payment set status = 'verified' where id = 204").await.unwrap();
    let mut socket = Socket::open(service.address, "8").await;
    assert_eq!(socket.frame().await["event"], "payment.verified");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_word_of_sslmode_means_what_it_means_to_libpq() {
    let mut place = Place::new().await;
    // The server lets `plain` in without TLS alone, `encrypted` with it alone.
    for (mode, plain, encrypted) in [
        ("", Ok(false), Ok(true)),
        ("sslmode=disable", Ok(false), Err("no encryption")),
        ("sslmode=allow", Ok(false), Ok(true)),
        ("sslmode=prefer", Ok(false), Ok(true)),
        ("sslmode=require", Err("SSL encryption"), Ok(true)),
        ("sslmode=require&sslrootcert={}/ca.pem", Err("SSL encryption"), Ok(true)),
        ("sslmode=verify-ca&sslrootcert={}/ca.pem", Err("SSL encryption"), Ok(true)),
        ("sslmode=verify-full&sslrootcert={}/ca.pem", Err("SSL encryption"), Ok(true)),
    ] {
        for (user, expected) in [("plain", plain), ("encrypted", encrypted)] {
            match (place.connect(user, "localhost", mode).await, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{user} {mode}"),
                (Err(said), Err(expected)) => assert!(said.contains(expected), "{user} {mode}: {said}"),
                (found, expected) => panic!("{user} {mode}: {found:?} and not {expected:?}"),
            }
        }
    }
    // A wrong password is wrong in either way, and is tried in one.
    let wrong = place.url("password", "localhost", "").replace(":geheim", ":falsch");
    let said = is_encrypted(&wrong).await.unwrap_err();
    assert_eq!(said.matches("password authentication failed").count(), 1, "{said}");
    // Whose certificate it is matters to those alone who ask.
    place.present(&Authority::new("a stranger").server(&["elsewhere"])).await;
    for mode in ["", "sslmode=require"] {
        assert_eq!(place.connect("encrypted", "localhost", mode).await, Ok(true), "{mode}");
    }
    for mode in ["require", "verify-ca", "verify-full"] {
        let said = place.refusal("encrypted", "localhost", &format!("sslmode={mode}&sslrootcert={{}}/ca.pem")).await;
        assert!(said.contains("not signed by an authority of") && said.contains("ca.pem"), "{said}");
    }
    let said = place.refusal("encrypted", "localhost", "sslrootcert=system").await;
    assert!(
        said.contains("not signed by an authority of this system") || said.contains("trusts no authority"),
        "{said}"
    );
    // A socket's path knows no TLS, whatever is asked for.
    let mode = "sslmode=verify-full&sslrootcert={}/ca.pem";
    assert_eq!(place.connect("postgres", "%2Ftmp", mode).await, Ok(false));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_name_of_the_address_is_verified_and_not_that_of_the_resolver() {
    let mut place = Place::new().await;
    let full = "sslmode=verify-full&sslrootcert={}/ca.pem";
    assert_eq!(place.connect("encrypted", "127.0.0.1", full).await, Ok(true));
    place.present(&place.authority.server(&["db1.example", "*.db.example"])).await;
    for (name, is_right) in
        [("db1.example", true), ("a.db.example", true), ("db2.example", false), ("localhost", false)]
    {
        let parameters = format!("hostaddr=127.0.0.1&{full}");
        match place.connect("encrypted", name, &parameters).await {
            Ok(encrypted) => assert!(is_right && encrypted, "{name}"),
            Err(said) => {
                assert!(!is_right, "{name}: {said}");
                assert!(said.contains(&format!("not {name}'s")) && said.contains("db1.example"), "{said}");
            }
        }
    }
    let said = place.refusal("encrypted", "127.0.0.1", full).await;
    assert!(said.contains("not 127.0.0.1's"), "{said}");
    // As pairs too; and the chain alone where that is all that is asked for.
    let pairs = format!(
        "host=db1.example hostaddr=127.0.0.1 port={} user=encrypted dbname=app sslmode = verify-full sslrootcert='{}'",
        place.server.port(),
        place.path("ca.pem").display()
    );
    assert_eq!(is_encrypted(&pairs).await, Ok(true));
    assert_eq!(is_encrypted(&pairs.replace("verify-full", "verify-ca").replace("db1", "db9")).await, Ok(true));
    assert!(is_encrypted(&pairs.replace("db1", "db9")).await.is_err());

    // A certificate that a server signed for itself is trusted when it is the one in the file, for its own name.
    let own = Signed::by_itself(&["localhost"]);
    place.keep("own.pem", &own.certificate);
    place.present(&own).await;
    let full = "sslmode=verify-full&sslrootcert={}/own.pem";
    assert_eq!(place.connect("encrypted", "localhost", full).await, Ok(true));
    assert!(place.refusal("encrypted", "127.0.0.1", full).await.contains("not 127.0.0.1's"));
    place.present(&Signed::by_itself(&["localhost"])).await;
    let said = place.refusal("encrypted", "localhost", full).await;
    assert!(said.contains("not signed by an authority of"), "another one of the same name: {said}");
    let said = place.refusal("encrypted", "localhost", "sslmode=require&sslrootcert={}/ca.pem").await;
    assert!(said.contains("not signed by an authority of"), "{said}");

    // One of version 1 cannot be verified, and encrypts.
    place.present(&Signed { certificate: OLD.0.to_owned(), key: OLD.1.to_owned() }).await;
    assert_eq!(place.connect("encrypted", "localhost", "sslmode=require").await, Ok(true));
    let bound = "sslmode=require&channel_binding=require";
    assert_eq!(place.connect("password", "localhost", bound).await, Ok(true));
    let said = place.refusal("encrypted", "localhost", "sslmode=verify-full&sslrootcert={}/ca.pem").await;
    assert!(said.contains("X.509 version 3"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_said_and_what_to_do() {
    let mut place = Place::new().await;
    let key = fs::read_to_string(place.path("client.key")).unwrap();
    place.keep("garbage.pem", "geheim");
    place.keep("other.key", &place.authority.client("service").key);
    place.keep("encrypted.key", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n");
    fs::set_permissions(place.keep("open.key", &key), fs::Permissions::from_mode(0o644)).unwrap();
    let full = "sslmode=verify-full&sslrootcert={}/ca.pem";
    let with = |certificate: &str, key: &str| format!("{full}&sslcert={{}}/{certificate}&sslkey={{}}/{key}");

    // What is in the address and in files is said before anything is connected to.
    for (parameters, expected) in [
        ("sslmode=on".to_owned(), "sslmode is disable, allow, prefer, require, verify-ca or verify-full"),
        ("sslmode=verify-ca".to_owned(), "sslmode=verify-ca needs sslrootcert"),
        ("sslmode=require&sslrootcert=system".to_owned(), "sslrootcert=system needs sslmode=verify-full"),
        ("sslnegotiation=direct".to_owned(), "sslnegotiation=direct needs sslmode=require"),
        ("sslnegotiation=geheim".to_owned(), "sslnegotiation is postgres or direct"),
        ("sslmode=disable&channel_binding=require".to_owned(), "channel_binding=require needs TLS"),
        ("channel_binding=geheim".to_owned(), "channel_binding is disable, prefer or require"),
        ("sslmode=require&sslrootcert={}/none.pem".to_owned(), "none.pem cannot be read: No such file or directory"),
        ("sslmode=require&sslrootcert={}/garbage.pem".to_owned(), "garbage.pem holds no certificate in PEM"),
        (format!("{full}&sslcert={{}}/client.pem"), "sslcert needs sslkey"),
        (format!("{full}&sslkey={{}}/client.key"), "sslkey needs sslcert"),
        (with("none.pem", "client.key"), "sslcert: "),
        (with("client.key", "client.key"), "client.key holds no certificate in PEM"),
        (with("client.pem", "none.key"), "sslkey: "),
        (with("client.pem", "garbage.pem"), "garbage.pem holds no private key in PEM"),
        (with("client.pem", "encrypted.key"), "encrypted.key is encrypted"),
        (with("client.pem", "open.key"), "open.key can be read or changed by others: chmod 600"),
        (with("client.pem", "other.key"), "is not that of the certificate in"),
    ] {
        let said = Store::new(&place.url("service", "localhost", &parameters).parse().unwrap(), 2).err();
        let said = format!("{:#}", said.unwrap_or_else(|| panic!("{parameters}")));
        assert!(said.contains(expected) && !said.contains("geheim"), "{parameters}: {said}");
    }

    // What a server says or does not say.
    let said = place.refusal("service", "localhost", full).await;
    assert!(said.contains("valid client certificate"), "{said}");
    let wrong = place.authority.client("somebody");
    place.keep("wrong.pem", &wrong.certificate);
    place.keep("wrong.key", &wrong.key);
    let said = place.refusal("service", "localhost", &with("wrong.pem", "wrong.key")).await;
    assert!(said.contains("authentication failed"), "{said}");
    let foreign = Authority::new("a stranger").client("service");
    place.keep("foreign.pem", &foreign.certificate);
    place.keep("foreign.key", &foreign.key);
    let said = place.refusal("service", "localhost", &with("foreign.pem", "foreign.key")).await;
    assert!(said.contains("refuse") && said.contains("certificate of sslcert"), "{said}");
    let said = place.refusal("encrypted", "localhost", &format!("{full}&channel_binding=require")).await;
    assert!(said.contains("channel_binding=require, and the server does not bind"), "{said}");
    // The service says it too, and goes on as soon as it is mended.
    let service = Service::at(&place.url("service", "localhost", &with("client.pem", "client.key"))).await;
    place.present(&place.authority.expired(&["localhost"])).await;
    let said = place.refusal("encrypted", "localhost", full).await;
    assert!(said.contains("has expired"), "{said}");
    says(&service, "has expired").await;
    place.present(&place.authority.server(&["localhost"])).await;
    eventually("it listens", || service.is_ready()).await;
    // A file that is gone later is said as well.
    fs::remove_file(place.path("ca.pem")).unwrap();
    place.server.end("INT");
    place.server.start_again().await;
    says(&service, "ca.pem cannot be read").await;
    place.keep("ca.pem", &place.authority.certificate);
    eventually("it listens again", || service.is_ready()).await;
}

/// Waits until a service says why it is not ready.
async fn says(service: &Service, why: &str) {
    eventually(why, || async {
        match service.get("/readyz").await {
            Some(answer) => answer.status() == 503 && answer.text().await.unwrap().contains(why),
            None => false,
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_tls_is_refused_by_those_who_want_it() {
    let database = database::Database::empty().await;
    for mode in ["require", "verify-ca&sslrootcert={}", "verify-full&sslrootcert={}"] {
        let authority = tempfile::NamedTempFile::new().unwrap();
        fs::write(authority.path(), Authority::new("the company").certificate).unwrap();
        let mode = mode.replace("{}", &authority.path().display().to_string());
        let said = is_encrypted(&format!("{}?sslmode={mode}", database.url())).await.unwrap_err();
        assert!(said.contains("the server does not speak TLS: set ssl = on there"), "{said}");
    }
    for mode in ["", "?sslmode=prefer", "?sslmode=allow", "?sslmode=disable"] {
        assert_eq!(is_encrypted(&format!("{}{mode}", database.url())).await, Ok(false), "{mode}");
    }
    let said = is_encrypted(&format!("{}?channel_binding=require", database.url())).await.unwrap_err();
    assert!(said.contains("channel_binding=require, and the server does not bind"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_without_a_word_before_it_takes_a_server_that_knows_it() {
    let place = Place::new().await;
    let admin = place.server.superuser("app").await;
    let version: i32 = admin.query_one("select current_setting('server_version_num')::int", &[]).await.unwrap().get(0);
    let direct = "sslmode=verify-full&sslrootcert={}/ca.pem&sslnegotiation=direct";
    if version >= 170_000 {
        assert_eq!(place.connect("encrypted", "localhost", direct).await, Ok(true));
    } else {
        let said = place.refusal("encrypted", "localhost", direct).await;
        assert!(said.contains("needs Postgres 17"), "{said}");
    }
    // Whatever this server's version is: one in front of it begins with TLS.
    let port = front(place.authority.server(&["localhost"]), place.server.port()).await;
    let here = format!(":{}/", place.server.port());
    let url = |parameters: &str| place.url("plain", "localhost", parameters).replace(&here, &format!(":{port}/"));
    assert_eq!(is_encrypted(&url(direct)).await, Ok(false), "from the front to the server there is none");
    assert!(is_encrypted(&url("sslmode=verify-full&sslrootcert={}/ca.pem")).await.is_err(), "it wants TLS at once");
    // It reads along, whatever certificate it shows. Somebody who does not verify that and binds the password to it finds out.
    let between = url("sslmode=require&sslnegotiation=direct").replace("plain", "scram");
    assert_eq!(is_encrypted(&between).await, Ok(false));
    let said = is_encrypted(&format!("{between}&channel_binding=require")).await.unwrap_err();
    assert!(said.contains("the server does not bind the password to the connection"), "{said}");
}

/// Somebody on the way who says that the server speaks no TLS.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_said_to_one_who_says_no_to_tls() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let heard = tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut request = [0; 8];
        client.read_exact(&mut request).await.unwrap();
        client.write_all(b"N").await.unwrap();
        let mut rest = Vec::new();
        let _ = client.read_to_end(&mut rest).await;
        (request, rest)
    });
    let url = format!("postgresql://somebody:geheim@127.0.0.1:{port}/app?sslmode=require");
    let said = is_encrypted(&url).await.unwrap_err();
    assert!(said.contains("the server does not speak TLS"), "{said}");
    let (request, rest) = heard.await.unwrap();
    assert_eq!((request, rest), ([0, 0, 0, 8, 4, 210, 22, 47], Vec::new()), "the question for TLS and nothing else");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_authorities_of_the_system_verify_and_the_log_says_whether_there_was_tls() {
    let place = Place::new().await;
    for (parameters, trusted, tls) in [
        ("sslrootcert=system", "ca.pem", true),
        ("sslrootcert=system&sslmode=verify-full", "ca.pem", true),
        ("sslmode=prefer", "ca.pem", true),
        ("sslmode=prefer", "ca.pem", false),
        ("sslmode=disable", "ca.pem", false),
        ("sslrootcert=system", "other.pem", true),
    ] {
        place.keep("other.pem", &Authority::new("another").certificate);
        let url = place.url(if tls { "encrypted" } else { "plain" }, "localhost", parameters);
        // What OpenSSL looks at as well.
        let mut migrate = process::binary();
        migrate.env("SSL_CERT_FILE", place.path(trusted)).env_remove("SSL_CERT_DIR");
        let output = migrate.args(["migrate", "--database-url", &url]).output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        if trusted == "ca.pem" {
            assert!(output.status.success(), "{parameters}: {said}");
            assert!(said.contains(&format!("tls={tls}")), "{parameters}: {said}");
            let fell_back = parameters == "sslmode=prefer" && !tls;
            assert_eq!(said.contains("goes on without TLS"), fell_back, "{parameters}: {said}");
        } else {
            assert!(said.contains("not signed by an authority of this system"), "{said}");
        }
    }
}

/// Begins with TLS of the application protocol `postgresql`, and passes on what is inside to a server. Returns its port.
async fn front(signed: Signed, server: u16) -> u16 {
    let certificate = CertificateDer::from_pem_slice(signed.certificate.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(signed.key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut client) = acceptor.accept(client).await else { return };
                if client.get_ref().1.alpn_protocol() != Some(b"postgresql") {
                    return;
                }
                let mut server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    port
}
