//! What a token says, at a moment that the test gives; which keys are taken; a set of keys that changes.

use std::io::Write;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use clap::Parser;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::json;
use tempfile::{NamedTempFile, TempDir};
use tokio::time::sleep;

use super::*;

const SECRET: &str = "a-secret-of-a-test-and-of-nothing-else-0123456789";

fn config(flags: &[&str]) -> JwtConfig {
    #[derive(Parser)]
    struct Alone {
        #[command(flatten)]
        jwt: JwtConfig,
    }
    Alone::try_parse_from(["serve"].iter().chain(flags)).unwrap().jwt
}

fn file(bytes: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// With [`SECRET`], and these settings.
async fn jwt(flags: &[&str]) -> Jwt {
    let secret = file(SECRET.as_bytes());
    Jwt::load(&JwtConfig { jwt_secret_file: Some(secret.path().into()), ..config(flags) }).await.unwrap()
}

fn signed_with(secret: &str, header: &Header, claims: &Value) -> Token {
    Token::new(&encode(header, claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()).unwrap()
}

impl Jwt {
    /// What a token with these claims is worth at a moment.
    fn says(&self, claims: &Value, now: f64) -> Result<Claims, Fault> {
        self.takes(&Header::default(), claims, now)
    }

    fn takes(&self, header: &Header, claims: &Value, now: f64) -> Result<Claims, Fault> {
        let Source::Fixed(keys) = &self.source else { panic!("a fixed key") };
        self.check(&signed_with(SECRET, header, claims), keys, now)
    }
}

fn why<T: std::fmt::Debug>(checked: Result<T, Fault>) -> &'static str {
    match checked {
        Err(Fault::Refused(why)) => why,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn a_token_is_good_in_its_time_and_ten_seconds_around_it() {
    let jwt = jwt(&[]).await;
    let claims = json!({"sub": "7", "iat": 1000, "nbf": 1005, "exp": 2000});
    for (now, said) in [
        (994.9, Err("nbf")),
        (995.0, Ok((2000.0, 995.0))),
        (1000.0, Ok((2000.0, 1000.0))),
        (1999.9, Ok((2000.0, 1000.0))),
        (2000.0, Ok((2010.0, 1000.0))),
        (2009.9, Ok((2010.0, 1000.0))),
        (2010.0, Err("expired")),
        (1e10, Err("expired")),
    ] {
        match (jwt.says(&claims, now), said) {
            (Ok(claims), Ok((ends, issued))) => {
                assert_eq!((claims.ends, claims.issued), (ends, Some(issued)), "at {now}")
            }
            (Err(Fault::Refused(why)), Err(word)) => assert!(why.contains(word), "at {now}: {why}"),
            (other, _) => panic!("at {now}: {other:?}"),
        }
    }
    for (claims, word) in [
        (json!({"sub": "7"}), "needs an `exp`"),
        (json!({"sub": "7", "exp": null}), "needs an `exp`"),
        (json!({"sub": "7", "exp": "2000"}), "in seconds"),
        (json!({"sub": "7", "exp": 2_000_000_000_000_u64}), "in seconds"),
        (json!({"sub": "7", "exp": -1}), "in seconds"),
        (json!({"sub": "7", "exp": 2000, "nbf": []}), "in seconds"),
        (json!({"sub": "7", "exp": 2000, "iat": 1e300}), "in seconds"),
        (json!({"sub": "7", "exp": 2000, "iat": 1010.1}), "in the future"),
    ] {
        let said = why(jwt.says(&claims, 1000.0));
        assert!(said.contains(word), "{claims}: {said}");
    }
    let fractions = jwt.says(&json!({"sub": "7", "exp": 1000.5, "iat": 1000.25}), 1000.0).unwrap();
    assert_eq!((fractions.ends, fractions.issued), (1000.5, Some(1000.0)), "nobody has what was not issued yet");
    assert_eq!(jwt.says(&json!({"sub": "7", "exp": 2000}), 1000.0).unwrap().issued, None);
}

#[tokio::test]
async fn a_grant_ends_when_its_token_does() {
    let jwt = jwt(&[]).await;
    let left = async |exp: f64| {
        let token = signed_with(SECRET, &Header::default(), &json!({"sub": "7", "exp": exp}));
        let before = Instant::now();
        let grant = jwt.verify(&token).await?;
        Ok::<_, Invalid>((grant.expires.unwrap() - before, grant.expires.unwrap() - Instant::now()))
    };
    let (at_most, at_least) = left(now() + 100.0).await.unwrap();
    assert!(at_least.as_secs_f64() <= 100.0 && at_most.as_secs_f64() > 90.0, "{at_most:?}");
    let (at_most, _) = left(now() - 1.0).await.unwrap();
    assert!(at_most.as_secs_f64() < 9.1, "what is left of the ten seconds: {at_most:?}");
    assert_eq!(left(now() - 11.0).await, Err(Invalid::Refused("the token has expired")));
    assert!(left(99_999_999_999.0).await.unwrap().0 <= LONGEST + Duration::from_secs(1), "a far end is no overflow");
}

#[tokio::test]
async fn a_token_says_whose_it_is_in_text_or_an_integer() {
    let usual = jwt(&[]).await;
    let whose = |jwt: &Jwt, claims: Value| {
        let mut claims = claims;
        claims["exp"] = 2000.into();
        jwt.says(&claims, 1000.0).map(|claims| claims.user.to_string())
    };
    for (claims, user) in [
        (json!({"sub": "7"}), "7"),
        (json!({"sub": 7}), "7"),
        (json!({"sub": -7}), "-7"),
        (json!({"sub": u64::MAX}), "18446744073709551615"),
        (json!({"sub": "jörg@example.com", "user_id": 8}), "jörg@example.com"),
        (json!({"user_id": 8}), "8"),
        (json!({"sub": null, "user_id": "8"}), "8"),
    ] {
        assert_eq!(whose(&usual, claims.clone()), Ok(user.to_owned()), "{claims}");
    }
    let long = "x".repeat(256);
    for sub in [json!(""), json!(7.0), json!(1e30), json!(true), json!({}), json!(["7"]), json!("a\nb"), json!(long)] {
        let said = why(whose(&usual, json!({"sub": sub, "user_id": "8"})));
        assert!(said.contains("holds no id"), "{sub}: {said}");
    }
    assert!(why(whose(&usual, json!({"uid": "7"}))).contains("does not say whose"));
    let named = jwt(&["--jwt-user-claim", "https://example.com/uid,uid"]).await;
    assert_eq!(whose(&named, json!({"sub": "7", "uid": 9})), Ok("9".to_owned()));
    assert!(why(whose(&named, json!({"sub": "7"}))).contains("does not say whose"));
}

#[tokio::test]
async fn a_token_for_another_service_or_from_another_issuer_is_refused() {
    let (anybody, named) =
        (jwt(&[]).await, jwt(&["--jwt-audience", "web,app", "--jwt-issuer", "https://id.example,other"]).await);
    let with = |audience: Value, issuer: Value| json!({"sub": "7", "exp": 2000, "aud": audience, "iss": issuer});
    for (claims, any, of_named) in [
        (with(json!(null), json!(null)), Ok(()), Err("aud")),
        (with(json!(null), json!("x")), Ok(()), Err("aud")),
        (with(json!("web"), json!(null)), Err("aud"), Err("iss")),
        (with(json!("web"), json!("other")), Err("aud"), Ok(())),
        (with(json!(["x", "app"]), json!("https://id.example")), Err("aud"), Ok(())),
        (with(json!(["x", "app"]), json!("https://id.example/")), Err("aud"), Err("iss")),
        (with(json!("app"), json!(["other"])), Err("aud"), Err("iss")),
        (with(json!([]), json!("other")), Err("aud"), Err("aud")),
        (with(json!("web,app"), json!("other")), Err("aud"), Err("aud")),
        (with(json!({"web": 1}), json!("other")), Err("aud"), Err("aud")),
    ] {
        for (jwt, expected) in [(&anybody, any), (&named, of_named)] {
            match (jwt.says(&claims, 1000.0), expected) {
                (Ok(_), Ok(())) => {}
                (Err(Fault::Refused(why)), Err(word)) => assert!(why.contains(word), "{claims}: {why}"),
                (other, _) => panic!("{claims}: {other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn tokens_of_another_kind_are_refused() {
    let jwt = jwt(&[]).await;
    let good = json!({"sub": "7", "exp": 2000});
    for (kind, is_good) in
        [("access", true), ("Bearer", true), ("sliding", true), ("refresh", false), ("", false), ("id", false)]
    {
        let mut claims = good.clone();
        claims["token_type"] = kind.into();
        assert_eq!(jwt.says(&claims, 1000.0).is_ok(), is_good, "{kind:?}");
    }
    for (typ, is_good) in [("JWT", true), ("jwt", true), ("at+jwt", true), ("dpop+jwt", false), ("logout+jwt", false)] {
        let header = Header { typ: Some(typ.to_owned()), ..Header::default() };
        assert_eq!(jwt.takes(&header, &good, 1000.0).is_ok(), is_good, "{typ}");
    }
    assert!(jwt.takes(&Header { typ: None, ..Header::default() }, &good, 1000.0).is_ok());
    for must in [vec![], vec!["b64".to_owned()], vec!["exp".to_owned()]] {
        let header = Header { crit: Some(must), ..Header::default() };
        assert!(why(jwt.takes(&header, &good, 1000.0)).contains("crit"));
    }
}

#[tokio::test]
async fn staff_listens_as_whom_its_claim_names_where_the_operator_says_so() {
    let (without, with) = (jwt(&[]).await, jwt(&["--jwt-staff-claim", "staff"]).await);
    let these = |ids: &[&str]| ListensAs::These(ids.iter().map(|id| id.parse().unwrap()).collect());
    for (claim, whom) in [
        (json!(true), ListensAs::Anybody),
        (json!(["8", 9]), these(&["8", "9"])),
        (json!([]), these(&[])),
        (json!(["8", {}]), ListensAs::Nobody),
        (json!([true]), ListensAs::Nobody),
        (json!("true"), ListensAs::Nobody),
        (json!(1), ListensAs::Nobody),
        (json!("8"), ListensAs::Nobody),
        (json!(false), ListensAs::Nobody),
        (json!(null), ListensAs::Nobody),
    ] {
        let claims = json!({"sub": "7", "exp": 2000, "staff": claim});
        assert_eq!(with.says(&claims, 1000.0).unwrap().listens_as, whom, "{claim}");
        assert_eq!(without.says(&claims, 1000.0).unwrap().listens_as, ListensAs::Nobody, "{claim}");
    }
    assert_eq!(with.says(&json!({"sub": "7", "exp": 2000}), 1000.0).unwrap().listens_as, ListensAs::Nobody);
}

fn pem(kind: &str, der: &[u8]) -> String {
    format!("-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n", BASE64_STANDARD.encode(der))
}

async fn refused(flag: &str, bytes: &[u8]) -> String {
    let key = file(bytes);
    match Jwt::load(&config(&[flag, key.path().to_str().unwrap()])).await {
        Ok(_) => panic!("{flag} took it"),
        Err(error) => format!("{error:#}"),
    }
}

#[tokio::test]
async fn what_is_no_good_key_is_refused_at_the_start_with_what_to_do() {
    let short = refused("--jwt-secret-file", b"thirty-one-bytes-are-not-enough\n").await;
    assert!(short.contains("has 31 bytes and needs 32") && short.contains("openssl rand"), "{short}");
    assert!(short.contains("--jwt-secret-file /") && !short.contains("thirty-one-bytes"), "{short}");

    let pair = Ed25519KeyPair::generate().unwrap();
    let public = pem("PUBLIC KEY", pair.public_key().as_der().unwrap().as_ref());
    let private = pem("PRIVATE KEY", pair.to_pkcs8v1().unwrap().as_ref());
    let confused = refused("--jwt-secret-file", public.as_bytes()).await;
    assert!(confused.contains("give a public key as --jwt-public-key-file"), "{confused}");
    let secret = refused("--jwt-public-key-file", private.as_bytes()).await;
    assert!(secret.contains("is a private key") && secret.contains("-pubout"), "{secret}");

    // An RSA key of 1024 bits, made with `openssl genrsa 1024 | openssl rsa -pubout`.
    let small = "-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQC8+4rCLY9InNAJew1MDs6t3wc5
W+RgyNBldYC01FjPMntIsPOokx7Val5AILmbCus6bceCDd8f2xh5rWaT5H5OX/I4
LMSgTSFHITVBJ6hmmGVvg0toEyV0p5qLoRMv69WHvL1yK/7JfjlrwKk6CQMmvwpZ
OivWk7N7y92Rvk4GkwIDAQAB
-----END PUBLIC KEY-----
";
    let weak = refused("--jwt-public-key-file", small.as_bytes()).await;
    assert!(weak.contains("has 1024 bits and needs 2048"), "{weak}");
    for (nonsense, words) in [
        (String::new(), "there is no public key"),
        ("nonsense".to_owned(), "there is no public key"),
        (pem("RSA PUBLIC KEY", b"nonsense"), "there is no public key"),
        (pem("PUBLIC KEY", b"nonsense"), "of a kind that is not known"),
        (pem("CERTIFICATE", b"nonsense"), "the certificate cannot be read"),
        ("-----BEGIN PUBLIC KEY-----\n&&&&\n-----END PUBLIC KEY-----\n".to_owned(), "broken"),
    ] {
        let said = refused("--jwt-public-key-file", nonsense.as_bytes()).await;
        assert!(said.contains(words), "{nonsense:?}: {said}");
    }
    for (nonsense, words) in [
        ("", "no JSON Web Key Set"),
        ("[]", "no JSON Web Key Set"),
        (r#"{"keys":[]}"#, "no key in it that verifies"),
        (r#"{"keys":[{"kty":"RSA","use":"enc","n":"AQAB","e":"AQAB"}, 7]}"#, "no key in it that verifies"),
    ] {
        let said = refused("--jwks", nonsense.as_bytes()).await;
        assert!(said.contains(words), "{nonsense:?}: {said}");
    }
    for (at, words) in [
        ("http://id.example/keys", "needs https"),
        ("ftp://127.0.0.1/keys", "an https URL"),
        ("https://me:hunter2@id.example/keys", "has no password"),
        ("https://", "no URL"),
        ("/nowhere/keys.json", "No such file"),
    ] {
        let said = format!("{:#}", Jwt::load(&config(&["--jwks", at])).await.err().unwrap());
        assert!(said.contains(words) && !said.contains("hunter2"), "{at}: {said}");
    }
    let none = Jwt::load(&config(&[])).await.err().unwrap().to_string();
    assert!(none.contains("--jwt-secret-file FILE, --jwt-public-key-file FILE or --jwks"), "{none}");
    let nobody = JwtConfig { jwt_user_claim: vec![String::new()], ..config(&["--jwt-secret-file", "/dev/null"]) };
    assert!(Jwt::load(&nobody).await.is_err());
}

#[tokio::test]
async fn one_newline_at_the_end_of_a_secret_is_no_part_of_it() {
    let binary: Vec<u8> = (0..=255).rev().collect();
    for (kept, secret) in [
        ([SECRET.as_bytes(), b"\n"].concat(), SECRET.as_bytes().to_vec()),
        ([SECRET.as_bytes(), b"\r\n"].concat(), SECRET.as_bytes().to_vec()),
        ([SECRET.as_bytes(), b"\n\n"].concat(), [SECRET.as_bytes(), b"\n"].concat()),
        (binary.clone(), binary),
    ] {
        let file = file(&kept);
        let jwt = Jwt::load(&config(&["--jwt-secret-file", file.path().to_str().unwrap()])).await.unwrap();
        let claims = json!({"sub": "7", "exp": now() + 100.0});
        let token = encode(&Header::default(), &claims, &EncodingKey::from_secret(&secret)).unwrap();
        assert!(jwt.verify(&Token::new(&token).unwrap()).await.is_ok(), "{kept:?}");
    }
}

/// Of a set those keys are taken that verify signatures, each for what it says, or for what its kind allows.
#[test]
fn of_a_set_the_keys_that_verify_are_taken() {
    let base64 = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let rsa = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let rsa = aws_lc_rs::rsa::PublicKeyComponents::<Vec<u8>>::from(rsa.public_key());
    let ec = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let (x, y) = ec.public_key().as_ref()[1..].split_at(32);
    let ed = Ed25519KeyPair::generate().unwrap();
    let (rsa, ec, ed, oct) = (
        json!({"kty": "RSA", "n": base64(&rsa.n), "e": base64(&rsa.e), "x5c": ["ignored"]}),
        json!({"kty": "EC", "crv": "P-256", "x": base64(x), "y": base64(y)}),
        json!({"kty": "OKP", "crv": "Ed25519", "x": base64(ed.public_key().as_ref())}),
        json!({"kty": "oct", "k": base64(SECRET.as_bytes())}),
    );
    let algorithms = "HS256 HS384 HS512 RS256 RS384 RS512 PS256 PS384 PS512 ES256 ES384 EdDSA";
    let takes = |jwk: &Value, more: Value, has_secrets: bool| {
        let mut jwk = jwk.clone();
        for (name, value) in more.as_object().unwrap() {
            jwk[name] = value.clone();
        }
        let keys = Keys::from_jwks(json!({"keys": [jwk]}).to_string().as_bytes(), has_secrets).unwrap();
        let taken = algorithms.split(' ').filter(|name| keys.fitting(None, name.parse().unwrap()).next().is_some());
        taken.collect::<Vec<_>>().join(" ")
    };
    for (jwk, more, taken) in [
        (&rsa, json!({}), "RS256 RS384 RS512"),
        (&rsa, json!({"alg": "RS512", "use": "sig", "key_ops": ["verify"], "kid": "1"}), "RS512"),
        (&rsa, json!({"alg": "PS256"}), "PS256"),
        (&ec, json!({"alg": null}), "ES256"),
        (&ed, json!({"alg": "EdDSA"}), "EdDSA"),
        (&oct, json!({}), "HS256 HS384 HS512"),
        (&oct, json!({"alg": "HS512", "key_ops": ["sign", "verify"]}), "HS512"),
        // Not what they say they are.
        (&rsa, json!({"alg": "HS256"}), ""),
        (&rsa, json!({"alg": "ES256"}), ""),
        (&ec, json!({"alg": "ES384"}), ""),
        (&ed, json!({"alg": "none"}), ""),
        (&oct, json!({"alg": "RS256"}), ""),
        (&rsa, json!({"use": "enc"}), ""),
        (&rsa, json!({"key_ops": ["encrypt"]}), ""),
        (&rsa, json!({"kty": "oct"}), ""),
        (&ec, json!({"crv": "P-384"}), ""),
        (&ec, json!({"crv": "secp256k1"}), ""),
        (&ec, json!({"x": base64(&[1; 32])}), ""),
        (&ec, json!({"x": base64(&x[1..])}), ""),
        (&ed, json!({"x": base64(&[1; 31])}), ""),
        (&rsa, json!({"n": base64(&[255; 255])}), ""),
        (&rsa, json!({"n": base64(&[&[0; 128], [255; 128].as_slice()].concat())}), ""),
        (&rsa, json!({"n": "&"}), ""),
        (&rsa, json!({"e": null}), ""),
        (&oct, json!({"k": base64(b"short")}), ""),
    ] {
        assert_eq!(takes(jwk, more.clone(), true), taken, "{jwk} with {more}");
    }
    assert_eq!(takes(&oct, json!({}), false), "", "a secret that is served is none");
}

async fn eventually(what: &str, fact: impl AsyncFn() -> bool) {
    let started = Instant::now();
    while !fact().await {
        assert!(started.elapsed() < Duration::from_secs(60), "never happened: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

const QUICK: Pace =
    Pace { refresh: Duration::from_millis(20), rest: Duration::from_secs(3600), retry: Duration::from_millis(20) };

/// A set of one secret for each id, which is made of the id, and a token signed with one.
fn set(ids: &[&str]) -> String {
    let keys = ids.iter().map(|id| json!({"kty": "oct", "kid": id, "k": BASE64_URL_SAFE_NO_PAD.encode(id.repeat(32))}));
    json!({"keys": keys.collect::<Vec<_>>()}).to_string()
}

fn signed_by(id: &str) -> Token {
    let header = Header { kid: Some(id.to_owned()), ..Header::default() };
    signed_with(&id.repeat(32), &header, &json!({"sub": "7", "exp": now() + 1000.0}))
}

#[tokio::test]
async fn a_key_that_was_taken_out_of_the_set_ends_with_the_next_reading() {
    let folder = TempDir::new().unwrap();
    let at = folder.path().join("keys.json");
    let write = |text: &str| {
        std::fs::write(folder.path().join("new"), text).unwrap();
        std::fs::rename(folder.path().join("new"), &at).unwrap();
    };
    write(&set(&["a", "b"]));
    let jwt = Jwt::load_with(&config(&["--jwks", at.to_str().unwrap()]), QUICK).await.unwrap();
    let Source::Set(jwks) = &jwt.source else { panic!("a set") };
    let test = async {
        let good = async |id: &str| jwt.verify(&signed_by(id)).await.is_ok();
        // What is being read now may have been opened before it was changed.
        let read_again = async || {
            let before = jwks.readings();
            eventually("it was read twice", async || jwks.readings() > before + 1).await;
        };
        assert!(good("a").await && good("b").await);
        write(&set(&["b", "c"]));
        read_again().await;
        assert!(good("b").await && good("c").await);
        let refused = jwt.verify(&signed_by("a")).await.err();
        assert!(
            matches!(refused, Some(Invalid::Refused(why)) if why.contains("a key that is not known")),
            "{refused:?}"
        );
        assert_eq!(jwt.verify(&signed_by("d")).await.err(), Some(Invalid::Unknown), "one was asked for just now");
        // What is no set takes nothing away.
        write("nonsense");
        read_again().await;
        assert!(good("b").await && good("c").await);
        std::fs::remove_file(&at).unwrap();
        read_again().await;
        assert!(good("b").await && good("c").await);
        // A set without keys does.
        write(&set(&[]));
        read_again().await;
        assert!(!good("b").await && !good("c").await);
    };
    tokio::select! {
        () = test => {}
        () = jwt.keep_fresh() => panic!("it ended"),
    }
}
