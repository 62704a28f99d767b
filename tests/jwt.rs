//! Tokens as they come from outside, against keys in files and sets that change while they are used.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Parser;
use futures_util::future::join_all;
use parkmate_notifier::auth::jwt::{Jwt, JwtConfig};
use parkmate_notifier::auth::{Invalid, Token};
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::support::server::free_port;
use crate::support::signer::{ALGORITHMS, RSA, encode};
use crate::support::{KeyServer, Signer, eventually};

pub const SECRET: &[u8] = b"a-secret-of-a-test-and-of-nothing-else-0123456789";

/// Made by djangorestframework-simplejwt 5.5.1 with its own settings, [`SECRET`] as Django's SECRET_KEY, user 42, issued in 2020 and
/// good until 2100: `RefreshToken.for_user(user)` after `set_iat` and `set_exp`, and its `access_token`.
const SIMPLEJWT_ACCESS: &str = concat!(
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.",
    "eyJ0b2tlbl90eXBlIjoiYWNjZXNzIiwiZXhwIjo0MTAyNDQ0ODAwLCJpYXQiOjE1Nzc4MzY4MDAsImp0aSI6IjVlMWViYWNhNWQwMTQ1ZjNiZGM4N2UzMmE2NzFiYzUyIiwidXNlcl9pZCI6IjQyIn0.",
    "dMZArnG124sIVzr5BynSZ0q6S55xnK43kU9YUc5X730",
);
const SIMPLEJWT_REFRESH: &str = concat!(
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.",
    "eyJ0b2tlbl90eXBlIjoicmVmcmVzaCIsImV4cCI6NDEwMjQ0NDgwMCwiaWF0IjoxNTc3ODM2ODAwLCJqdGkiOiIwMWY1OGZlZjNmMzU0ZDIxYTBiMGU5NmM2NDNjNzExNyIsInVzZXJfaWQiOiI0MiJ9.",
    "ym3FVyQKdxi0kqfK6Tm29bnL9xn8HYxzZKE10lLIDow",
);

pub fn file(bytes: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

pub async fn load(flag: &str, value: &str) -> anyhow::Result<Jwt> {
    #[derive(Parser)]
    struct Alone {
        #[command(flatten)]
        jwt: JwtConfig,
    }
    Jwt::load(&Alone::try_parse_from(["serve", flag, value]).unwrap().jwt).await
}

pub async fn load_file(flag: &str, bytes: &[u8]) -> Jwt {
    load(flag, file(bytes).path().to_str().unwrap()).await.unwrap()
}

/// Of user 7, for an hour.
pub fn claims() -> Value {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    json!({"sub": "7", "iat": now, "exp": now + 3600})
}

async fn takes(jwt: &Jwt, token: &Token) -> bool {
    match jwt.verify(token).await {
        Ok(grant) => {
            assert_eq!(grant.user.as_str(), "7");
            true
        }
        Err(Invalid::Refused(_)) => false,
        Err(Invalid::Unknown) => panic!("it must know"),
    }
}

/// Every key is asked about every token: signed with each kind of key and each algorithm, naming each algorithm.
#[tokio::test]
async fn each_key_takes_its_own_algorithms_and_no_other() {
    let signers = [Signer::secret(SECRET), Signer::rsa(), Signer::p256(), Signer::p384(), Signer::ed25519()];
    let mut verifiers = vec![(0, &ALGORITHMS[..3], load_file("--jwt-secret-file", SECRET).await)];
    for (n, signer) in signers.iter().enumerate().skip(1) {
        // An RSA key in a file has no word to say that it is for PSS.
        let own = if n == 1 { &ALGORITHMS[3..6] } else { signer.algorithms() };
        verifiers.push((n, own, load_file("--jwt-public-key-file", signer.public_pem().as_bytes()).await));
        // A set of one, which says what it is for.
        let algorithm = *signer.algorithms().last().unwrap();
        let mut jwk = signer.jwk("1");
        jwk["alg"] = algorithm.into();
        let set = json!({"keys": [jwk]}).to_string();
        verifiers.push((
            n,
            &signer.algorithms()[signer.algorithms().len() - 1..],
            load_file("--jwks", set.as_bytes()).await,
        ));
    }
    let (mut taken, mut tokens) = (0, 0);
    for (n, signer) in signers.iter().enumerate() {
        for signed in signer.algorithms() {
            for named in ALGORITHMS {
                let token = signer.sign_as(signed, &json!({"alg": named}), &claims());
                tokens += 1;
                for (key, own, jwt) in &verifiers {
                    let good = n == *key && *signed == named && own.contains(&named);
                    assert_eq!(
                        takes(jwt, &token).await,
                        good,
                        "key {key} for {own:?}: signed {signed} by {n}, named {named}"
                    );
                    taken += usize::from(good);
                }
            }
        }
    }
    assert_eq!((tokens, taken), (12 * 12, 3 + 3 + 1 + 2 * 3));
}

#[tokio::test]
async fn a_public_key_is_no_secret_to_sign_with() {
    let pem = RSA.public_pem();
    let jwt = load_file("--jwt-public-key-file", pem.as_bytes()).await;
    let set = load_file("--jwks", json!({"keys": [RSA.jwk("1")]}).to_string().as_bytes()).await;
    assert!(takes(&jwt, &RSA.sign(None, &claims())).await && takes(&set, &RSA.sign(None, &claims())).await);
    let modulus = RSA.jwk("1")["n"].as_str().unwrap().to_owned();
    for secret in [
        pem.as_bytes(),
        pem.trim().as_bytes(),
        pem.replace('\n', "\r\n").as_bytes(),
        &RSA.public_der(),
        modulus.as_bytes(),
        RSA.jwk("1").to_string().as_bytes(),
        b"",
    ] {
        for algorithm in &ALGORITHMS[..3] {
            let token = Signer::secret(secret).sign_as(algorithm, &json!({"alg": algorithm}), &claims());
            assert!(!takes(&jwt, &token).await && !takes(&set, &token).await);
        }
    }
}

#[tokio::test]
async fn a_token_that_is_not_signed_is_refused_in_all_spellings() {
    let jwts = [
        load_file("--jwt-secret-file", SECRET).await,
        load_file("--jwt-public-key-file", RSA.public_pem().as_bytes()).await,
        load_file("--jwks", json!({"keys": [Signer::secret(SECRET).jwk("1")]}).to_string().as_bytes()).await,
    ];
    let good = Signer::secret(SECRET).sign(None, &claims());
    let signature = good.as_str().rsplit_once('.').unwrap().1;
    for header in [
        json!({"alg": "none"}),
        json!({"alg": "None"}),
        json!({"alg": "NONE"}),
        json!({"alg": "nOnE", "typ": "JWT"}),
        json!({"alg": ""}),
        json!({"alg": null}),
        json!({"alg": ["HS256"]}),
        json!({"alg": "hs256"}),
        json!({"alg": "HS256 "}),
        json!({}),
        json!(["HS256"]),
        json!("HS256"),
        json!({"alg": "HS256"}),
    ] {
        let message = format!("{}.{}", encode(header.to_string()), encode(claims().to_string()));
        for text in [message.clone(), format!("{message}."), format!("{message}.{signature}"), format!("{message}..")] {
            for jwt in &jwts {
                assert!(!takes(jwt, &Token::new(&text).unwrap()).await, "{header}: {text}");
            }
        }
    }
    // What is signed is all of it.
    let (message, _) = good.as_str().rsplit_once('.').unwrap();
    for text in [
        ".",
        "..",
        "...",
        "a.b.c",
        &good.as_str()[1..],
        message,
        &format!("{}.", good.as_str()),
        &format!("{}=", good.as_str()),
    ] {
        for jwt in &jwts {
            assert!(!takes(jwt, &Token::new(text).unwrap()).await, "{text}");
        }
    }
    assert!(takes(&jwts[0], &good).await);
}

#[tokio::test]
async fn a_key_that_a_token_brings_along_is_not_looked_at() {
    let (issuer, stranger) = (Signer::p256(), Signer::p256());
    let server = KeyServer::start().await;
    server.serve(&[stranger.jwk("1")]);
    let jwts = [
        load_file("--jwt-public-key-file", issuer.public_pem().as_bytes()).await,
        load_file("--jwks", json!({"keys": [issuer.jwk("1")]}).to_string().as_bytes()).await,
    ];
    for header in [
        json!({"alg": "ES256", "kid": "1", "jwk": stranger.jwk("1")}),
        json!({"alg": "ES256", "kid": "1", "jku": server.url()}),
        json!({"alg": "ES256", "kid": "1", "x5u": server.url()}),
        json!({"alg": "ES256", "kid": "1", "x5c": [stranger.public_pem()]}),
        json!({"alg": "ES256", "jwk": stranger.jwk("1"), "jku": server.url()}),
    ] {
        for jwt in &jwts {
            assert!(!takes(jwt, &stranger.sign_as("ES256", &header, &claims())).await, "{header}");
            assert!(takes(jwt, &issuer.sign_as("ES256", &header, &claims())).await, "{header}");
        }
    }
    assert_eq!(server.asked(), 0, "nobody followed an address in a token");
}

#[tokio::test]
async fn tokens_of_djangorestframework_simplejwt_are_taken_as_they_come() {
    let jwt = load_file("--jwt-secret-file", SECRET).await;
    let grant = jwt.verify(&Token::new(SIMPLEJWT_ACCESS).unwrap()).await.unwrap();
    assert_eq!((grant.user.as_str(), grant.issued), ("42", Some(1_577_836_800.0)));
    let refused = jwt.verify(&Token::new(SIMPLEJWT_REFRESH).unwrap()).await.unwrap_err();
    assert!(matches!(refused, Invalid::Refused(why) if why.contains("no access token")), "{refused:?}");
}

#[tokio::test]
async fn the_key_of_a_certificate_and_each_of_several_keys_verify() {
    let pair = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(["id.example".to_owned()]).unwrap().self_signed(&pair).unwrap();
    let own = aws_lc_rs::signature::EcdsaKeyPair::from_pkcs8(
        &aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED_SIGNING,
        &pair.serialize_der(),
    );
    let (certified, other, stranger) = (Signer::P256(own.unwrap()), Signer::p256(), Signer::p256());
    let pem = format!("issuer, this year:\n{}{}", certificate.pem(), other.public_pem());
    let jwt = load_file("--jwt-public-key-file", pem.as_bytes()).await;
    for (signer, good) in [(certified, true), (other, true), (stranger, false)] {
        assert_eq!(takes(&jwt, &signer.sign(Some("any"), &claims())).await, good);
    }
}

/// Loads the set of a server and keeps it fresh.
async fn keep(url: &str) -> (Arc<Jwt>, Keeper) {
    let jwt = Arc::new(load("--jwks", url).await.unwrap());
    let keeps = jwt.clone();
    (jwt, Keeper(tokio::spawn(async move { keeps.keep_fresh().await })))
}

struct Keeper(JoinHandle<()>);

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[tokio::test]
async fn a_new_key_is_fetched_once_for_all_who_name_it() {
    let (old, new, unknown) = (Signer::p256(), Signer::ed25519(), Signer::p256());
    let server = KeyServer::start().await;
    server.serve(&[old.jwk("old")]);
    let (jwt, _keeper) = keep(&server.url()).await;
    assert!(takes(&jwt, &old.sign(Some("old"), &claims())).await && takes(&jwt, &old.sign(None, &claims())).await);
    assert!(
        !takes(&jwt, &unknown.sign(Some("old"), &claims())).await && !takes(&jwt, &unknown.sign(None, &claims())).await
    );
    assert_eq!(server.asked(), 1, "what it has is enough");

    // The old one serves on while both are in the set.
    server.serve(&[old.jwk("old"), new.jwk("new"), Signer::secret(SECRET).jwk("public secret")]);
    let tokens: Vec<_> = (0..100).map(|_| new.sign(Some("new"), &claims())).collect();
    assert!(join_all(tokens.iter().map(|token| takes(&jwt, token))).await.into_iter().all(|good| good));
    assert_eq!(server.asked(), 2, "once for a hundred");
    assert!(takes(&jwt, &old.sign(Some("old"), &claims())).await);

    // Within half a minute nobody makes it ask again, and nobody waits.
    let tokens: Vec<_> = (0..100).map(|n| unknown.sign(Some(&n.to_string()), &claims())).collect();
    let answers = join_all(tokens.iter().map(|token| jwt.verify(token))).await;
    assert!(answers.iter().all(|answer| matches!(answer, Err(Invalid::Unknown))), "they may be good in a moment");
    let secret = Signer::secret(SECRET);
    assert_eq!(jwt.verify(&secret.sign(Some("public secret"), &claims())).await.err(), Some(Invalid::Unknown));
    assert!(!takes(&jwt, &secret.sign(None, &claims())).await, "a secret that is served is none");
    assert_eq!(server.asked(), 2);
}

#[tokio::test]
async fn a_key_server_that_fails_takes_no_key_away() {
    let (old, new) = (Signer::p256(), Signer::p256());
    let elsewhere = KeyServer::start().await;
    elsewhere.serve(&[new.jwk("new")]);
    let large = format!("{{\"keys\":[{}]}}", " ".repeat(1024 * 1024));
    let moved = format!("302 Found\r\nLocation: {}", elsewhere.url());
    for (status, body) in [("500 Oops", "{}"), ("200 OK", "<html>"), ("200 OK", large.as_str()), (moved.as_str(), "")] {
        let server = KeyServer::start().await;
        server.serve(&[old.jwk("old")]);
        let (jwt, _keeper) = keep(&server.url()).await;
        server.answer(status, body);
        assert_eq!(jwt.verify(&new.sign(Some("new"), &claims())).await.err(), Some(Invalid::Unknown), "{status}");
        assert_eq!(server.asked(), 2, "{status}");
        assert!(takes(&jwt, &old.sign(Some("old"), &claims())).await, "{status}");
    }
    assert_eq!(elsewhere.asked(), 0, "nobody was led elsewhere");
}

#[tokio::test]
async fn a_key_server_that_is_away_at_the_start_is_asked_until_it_answers() {
    let signer = Signer::p256();
    let token = signer.sign(Some("1"), &claims());
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let (jwt, _keeper) = keep(&format!("http://{address}/keys")).await;
    assert_eq!(jwt.verify(&token).await.err(), Some(Invalid::Unknown));
    let server = KeyServer::on(TcpListener::bind(address).await.unwrap());
    server.serve(&[signer.jwk("1")]);
    eventually("the keys are there", || async { jwt.verify(&token).await.is_ok() }).await;
}
