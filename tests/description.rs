//! `docs/openapi.json` against the service: every documented status is provoked, and every answer is what the description says.

use std::collections::BTreeSet;

use parkmate_notifier::auth::AuthMode;
use parkmate_notifier::protocol::Read;
use reqwest::{RequestBuilder, Response};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Database, Inbox, Service, Socket, eventually};

fn description() -> Value {
    serde_json::from_str(include_str!("../docs/openapi.json")).unwrap()
}

/// Answers have no key that is not described, though clients are told to ignore such.
fn strict(value: &mut Value) {
    if let Some(object) = value.as_object_mut() {
        if object.contains_key("properties") {
            object.insert("additionalProperties".into(), false.into());
        }
        object.values_mut().for_each(strict);
    } else if let Some(array) = value.as_array_mut() {
        array.iter_mut().for_each(strict);
    }
}

fn violations(description: &Value, schema: &Value, instance: &Value) -> Vec<String> {
    let mut schema = schema.clone();
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    schema["components"] = description["components"].clone();
    let validator = jsonschema::options().should_validate_formats(true).build(&schema).unwrap();
    validator.iter_errors(instance).map(|error| format!("{} at {}", error, error.instance_path())).collect()
}

/// What was seen of the description.
struct Witness {
    description: Value,
    seen: BTreeSet<(String, String, String)>,
}

impl Witness {
    fn new() -> Self {
        let mut description = description();
        strict(&mut description);
        Self { description, seen: BTreeSet::new() }
    }

    /// Holds an answer against what is documented for the path's method.
    async fn check(&mut self, method: &str, path: &str, response: Response) {
        let status = response.status().as_u16().to_string();
        let headers = response.headers().clone();
        let body = if status == "101" { String::new() } else { response.text().await.unwrap() };
        let header = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        self.hold(method, path, &status, header, &body);
    }

    fn hold(&mut self, method: &str, path: &str, status: &str, header: impl Fn(&str) -> Option<String>, body: &str) {
        let what = format!("{method} {path} {status}: {body}");
        let documented = &self.description["paths"][path][method.to_lowercase()]["responses"][status];
        assert!(documented.is_object(), "undocumented: {what}");
        let documented = match documented["$ref"].as_str() {
            Some(reference) => self.description.pointer(reference.trim_start_matches('#')).unwrap(),
            None => documented,
        };
        for (name, described) in documented["headers"].as_object().into_iter().flatten() {
            let value = header(name).unwrap_or_else(|| panic!("no {name}: {what}"));
            assert_eq!(violations(&self.description, &described["schema"], &value.into()), [""; 0], "{name}: {what}");
        }
        if let Some(content) = documented["content"].as_object() {
            let kind = header("content-type").unwrap_or_default();
            let kind = kind.split(';').next().unwrap();
            let described = content.get(kind).unwrap_or_else(|| panic!("{kind:?} is not documented: {what}"));
            let body = if kind.ends_with("json") { serde_json::from_str(body).expect(&what) } else { body.into() };
            assert_eq!(violations(&self.description, &described["schema"], &body), [""; 0], "{what}");
            if kind == "application/problem+json" {
                assert_eq!(body["status"].to_string(), status, "{what}");
            }
        }
        self.seen.insert((method.to_lowercase(), path.to_owned(), status.to_owned()));
    }

    fn unseen(&self) -> Vec<String> {
        let mut unseen = Vec::new();
        for (path, methods) in self.description["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                for status in operation["responses"].as_object().unwrap().keys() {
                    if !self.seen.contains(&(method.clone(), path.clone(), status.clone())) {
                        unseen.push(format!("{method} {path} {status}"));
                    }
                }
            }
        }
        unseen
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_documented_answer_is_given_and_every_given_answer_is_documented() {
    const LIST: &str = "/api/notifications";
    const COUNT: &str = "/api/notifications/unread-count";
    const READ: &str = "/api/notifications/read";
    const TICKET: &str = "/api/ws-ticket";
    const SOCKET: &str = "/ws/notifications/{user_id}/";
    let database = Database::new().await;
    database
        .run(
            "create schema app;
             create function app.authenticate(token text, out user_id text, out expires_at timestamptz)
             language sql as $$ select null, null::timestamptz where false $$",
        )
        .await;
    let service = Service::on(&database).await;
    database.write("update payment set status = 'verified' where id = 201").await;
    for level in ["info", "warning", "error"] {
        database.run(&format!("select notifier.send('7', '{level}', 'A text.')")).await;
    }
    let inbox = Inbox::of(&service, "7");
    let mut witness = Witness::new();
    let anonymous = |method: &str, path: &str| {
        reqwest::Client::new().request(method.parse().unwrap(), format!("http://{}{path}", service.address))
    };

    for (method, path, query) in [
        ("GET", LIST, "?limit=2"),
        ("GET", LIST, "?unread=true"),
        ("GET", LIST, "?limit=x"),
        ("GET", COUNT, ""),
        ("GET", "/api/openapi.json", ""),
        ("GET", "/healthz", ""),
        ("GET", "/readyz", ""),
    ] {
        let response = inbox.request(method, &format!("{path}{query}")).send().await.unwrap();
        witness.check(method, path, response).await;
    }
    let operations = [("GET", LIST), ("GET", COUNT), ("POST", READ), ("POST", TICKET)];
    let by_cookie = Service::start_with(&database.url(), |config| {
        config.auth.auth = AuthMode::Sql;
        config.auth.auth_function = Some("app.authenticate".to_owned());
        config.auth.auth_cookie = Some("session".to_owned());
        config.auth.allowed_origin = vec!["https://app.example".parse().unwrap()];
    })
    .await;
    let from_anywhere = |method: &str, path: &str| {
        let request =
            reqwest::Client::new().request(method.parse().unwrap(), format!("http://{}{path}", by_cookie.address));
        request.header("cookie", "session=x")
    };
    for (method, path) in operations {
        witness.check(method, path, anonymous(method, path).send().await.unwrap()).await;
        witness.check(method, path, from_anywhere(method, path).send().await.unwrap()).await;
    }
    witness.check("POST", TICKET, inbox.request("POST", TICKET).send().await.unwrap()).await;
    let strict = Service::start_with(&database.url(), |config| {
        config.auth.auth = AuthMode::Sql;
        config.auth.auth_function = Some("app.authenticate".to_owned());
        config.limits.max_new_sockets_per_address = 1;
    })
    .await;
    for (method, path) in operations {
        let request = || {
            let url = format!("http://{}{path}", strict.address);
            reqwest::Client::new().request(method.parse().unwrap(), url).bearer_auth("nonsense")
        };
        eventually("it has tried too often", || async { request().send().await.unwrap().status() == 429 }).await;
        // More than a second's worth at once: one of them is too many.
        let answers = futures_util::future::join_all((0..8).map(|_| request().send())).await;
        let too_many = answers.into_iter().map(Result::unwrap).find(|answer| answer.status() == 429);
        witness.check(method, path, too_many.expect("too many at once")).await;
    }
    for body in [json!({"ids": ["1"]}), json!({"before": "9"}), json!({"before": "1", "ids": []})] {
        witness.check("POST", READ, inbox.request("POST", READ).json(&body).send().await.unwrap()).await;
    }
    witness.check("GET", LIST, inbox.request("GET", LIST).send().await.unwrap()).await;
    let form = inbox.request("POST", READ).header("content-type", "application/x-www-form-urlencoded").body("before=1");
    witness.check("POST", READ, form.send().await.unwrap()).await;
    for length in [64 * 1024, 64 * 1024 + 1] {
        let large = inbox.request("POST", READ).header("content-type", "application/json; charset=utf-8");
        let response = large.body(r#"{"before":"1"}"#.to_owned() + &" ".repeat(length - 14)).send().await.unwrap();
        assert_eq!(response.status(), if length > 64 * 1024 { 413 } else { 200 });
        witness.check("POST", READ, response).await;
    }
    witness_a_body_that_does_not_arrive(&mut witness, &service, READ).await;

    for (path, bearer, upgrade, status) in [
        ("7", None, true, 101),
        ("me", None, true, 401),
        ("8", Some("7"), true, 403),
        ("%00", None, true, 404),
        ("7", None, false, 426),
    ] {
        let mut request = anonymous("GET", &format!("/ws/notifications/{path}/"));
        if upgrade {
            request = upgrading(request);
        }
        if let Some(bearer) = bearer {
            request = request.bearer_auth(bearer);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), status, "{path}");
        witness.check("GET", SOCKET, response).await;
    }

    let crowded = Service::start_with(&database.url(), |config| config.limits.max_sockets_per_user = 1).await;
    let one = Socket::open(crowded.address, "7").await;
    let socket = upgrading(reqwest::Client::new().get(format!("http://{}/ws/notifications/7/", crowded.address)));
    witness.check("GET", SOCKET, socket.send().await.unwrap()).await;
    drop(one);

    database.go_away().await;
    let socket = from_anywhere("GET", "/ws/notifications/me/").header("origin", "https://app.example");
    witness.check("GET", SOCKET, upgrading(socket).send().await.unwrap()).await;
    for (method, path) in operations {
        let request = inbox.request(method, path);
        let request = if path == READ { request.json(&json!({"before": "1"})) } else { request };
        witness.check(method, path, request.send().await.unwrap()).await;
    }
    eventually("not ready without its database", || async { !service.is_ready().await }).await;
    witness.check("GET", "/readyz", service.get("/readyz").await.unwrap()).await;
    assert_eq!(witness.unseen(), [""; 0], "documented and never given");

    let served: Value = service.get("/api/openapi.json").await.unwrap().json().await.unwrap();
    assert_eq!(served, description());
}

fn upgrading(request: RequestBuilder) -> RequestBuilder {
    let request = request.header("connection", "upgrade").header("upgrade", "websocket");
    request.header("sec-websocket-version", "13").header("sec-websocket-key", "AAAAAAAAAAAAAAAAAAAAAA==")
}

async fn witness_a_body_that_does_not_arrive(witness: &mut Witness, service: &Service, path: &str) {
    let mut stream = TcpStream::connect(service.address).await.unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer 7\r\n\
         Content-Type: application/json\r\nContent-Length: 14\r\n\r\n{{"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap();
    let header = |name: &str| {
        let mut lines = head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
    };
    witness.hold("POST", path, status, header, body);
}

/// The schema of the body and its parser accept the same.
#[test]
fn what_the_schema_of_a_body_refuses_is_refused() {
    let description = description();
    let schema = &description["components"]["schemas"]["Read"];
    let ids = |count| Value::from_iter((0..count).map(|id: i32| id.to_string()));
    for (body, right) in [
        (json!({"ids": ["1", 2]}), true),
        (json!({"ids": ids(1000)}), true),
        (json!({"ids": ids(1001)}), false),
        (json!({"ids": []}), false),
        (json!({"ids": "1"}), false),
        (json!({"ids": ["x"]}), false),
        (json!({"ids": [null]}), false),
        (json!({"ids": [-1]}), false),
        (json!({"ids": [1.5]}), false),
        (json!({"before": "1", "op": "read"}), true),
        (json!({"before": 1, "ids": null}), true),
        (json!({"before": ""}), false),
        (json!({"before": "12345678901234567890"}), false),
        (json!({"before": "1", "ids": ["1"]}), false),
        (json!({"before": null}), false),
        (json!({}), false),
        (json!([]), false),
        (json!("1"), false),
    ] {
        assert_eq!(violations(&description, schema, &body).is_empty(), right, "the schema: {body}");
        assert_eq!(body.to_string().parse::<Read>().is_ok(), right, "the parser: {body}");
    }
}

/// What docs/security.md names as shown is a test that is there.
#[test]
fn every_defence_names_a_test_that_is_there() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("docs/security.md")).unwrap();
    let named =
        text.split('`').filter(|word| word.contains("::") && !word.starts_with(':') && !word.contains([' ', '*', '.']));
    let mut count = 0;
    for name in named {
        let (module, function) = name.rsplit_once("::").unwrap();
        let (room, path) = match module.strip_suffix("::tests") {
            Some(module) => ("src", module),
            None => ("tests", module),
        };
        let path = path.replace("::", "/");
        let sources = [format!("{room}/{path}.rs"), format!("{room}/{path}/tests.rs")];
        let found = sources.iter().any(|source| {
            let source = std::fs::read_to_string(root.join(source)).unwrap_or_default();
            source.contains(&format!("fn {function}("))
        });
        assert!(found, "{name} is in none of {sources:?}");
        count += 1;
    }
    assert!(count > 50, "{count}");
}
