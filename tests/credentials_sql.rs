//! Who may connect, as far as the database says it: revocations, tickets, the application's own function, the shipped ones.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use tokio_postgres::Client;
use tokio_postgres::error::DbError;

use crate::support::checker::Place;
use crate::support::{Database, Service, database, eventually};
use crate::survival;

/// The latest revocation of user 42, as every surface says it.
const REVOKED_AT: &str =
    "select extract(epoch from max(revoked_at))::double precision from notifier.revocation where user_id = '42'";

/// A ticket's hash.
fn hash(ticket: u32) -> Vec<u8> {
    let mut hash = vec![0; 28];
    hash.extend(ticket.to_be_bytes());
    hash
}

async fn refusal(client: &Client, sql: &str) -> DbError {
    client.batch_execute(sql).await.expect_err(sql).as_db_error().unwrap_or_else(|| panic!("{sql}")).clone()
}

async fn position(client: &Client) -> String {
    client.query_one("select pg_current_snapshot()::text", &[]).await.unwrap().get(0)
}

/// What was revoked since a position.
async fn revoked_since(database: &Database, position: &str) -> Vec<(String, f64)> {
    let sql = format!("select revoked_users, revoked_at from notifier.revocations('{position}')");
    let row = database.owner.query_one(&sql, &[]).await.unwrap();
    let (users, times): (Vec<String>, Vec<f64>) = (row.get(0), row.get(1));
    assert_eq!(users.len(), times.len());
    let mut revoked: Vec<_> = users.into_iter().zip(times).collect();
    revoked.sort_by(|one, other| one.partial_cmp(other).unwrap());
    revoked
}

async fn opened_says(database: &Database, user: &str) -> Option<f64> {
    let sql = format!(
        "select o.revoked_at from notifier.opened(array['{user}'], array[null], array[null], array[null], array[null],
         array[false], '1 day', 20) o"
    );
    database.one(&sql).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_is_told_at_once_and_stays_for_whoever_reads_later() {
    let database = Database::new().await;
    let channel: String = database.one("select value from notifier.setting where name = 'channel'").await;
    let (_listening, mut heard) = survival::listen(&database).await;
    let before = position(&database.owner).await;
    assert_eq!((opened_says(&database, "42").await, revoked_since(&database, &before).await), (None, Vec::new()));

    database.run("set extra_float_digits = -10; select notifier.revoke_user('42'); reset extra_float_digits").await;
    let at: f64 = database.one(REVOKED_AT).await;
    let payload: serde_json::Value = serde_json::from_str(&heard.recv().await.unwrap()).unwrap();
    assert_eq!(payload, serde_json::json!({"revoked": {"user_id": "42", "at": at}}));
    assert!(
        (database.one::<f64>("select extract(epoch from now())::double precision").await - at).abs() < 60.0,
        "{at}"
    );
    assert_eq!(revoked_since(&database, &before).await, [("42".to_owned(), at)]);
    assert_eq!(opened_says(&database, "42").await, Some(at));

    // Once more: the later one counts, and each user is named once.
    database.run("select notifier.revoke_user('42'); select notifier.revoke_user('nobody''s \"id\"')").await;
    let later: f64 = database.one(REVOKED_AT).await;
    assert!(later > at);
    let payloads = [heard.recv().await.unwrap(), heard.recv().await.unwrap()];
    assert!(payloads[1].contains(r#""user_id" : "nobody's \"id\"""#), "{payloads:?}");
    let since = revoked_since(&database, &before).await;
    assert_eq!((since.len(), since[0].clone()), (2, ("42".to_owned(), later)));
    assert_eq!(revoked_since(&database, &position(&database.owner).await).await, []);
    let sql = "select * from notifier.revoked(array['8', '42', null, '42'])";
    let revoked: Vec<Option<f64>> = database.rows(sql).await.iter().map(|row| row.get(0)).collect();
    assert_eq!(revoked, [None, Some(later), None, Some(later)]);

    // Where nobody may NOTIFY, and where it is undone.
    database.run("set notifier.doorbell = off; select notifier.revoke_user('42'); reset notifier.doorbell").await;
    database.run("begin; select notifier.revoke_user('43'); rollback").await;
    database.run(&format!("notify {channel}, 'marker'")).await;
    assert_eq!(heard.recv().await.unwrap(), "marker");
    assert!(database.one::<f64>(REVOKED_AT).await > later);
    assert_eq!(opened_says(&database, "43").await, None);
}

/// An instance looks at what it has not seen by transaction, not by time: one that was open for long is not skipped.
#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_that_is_committed_late_is_not_skipped() {
    let database = Database::new().await;
    let slow = database.anew().await.owner;
    slow.batch_execute("begin; select notifier.revoke_user('42')").await.unwrap();
    database.run("select notifier.revoke_user('8')").await;
    // The other began before this position, and is not visible in it.
    let between = position(&database.owner).await;
    assert_eq!(revoked_since(&database, &between).await, []);
    slow.batch_execute("commit").await.unwrap();
    let at: f64 = database.one(REVOKED_AT).await;
    assert_eq!(revoked_since(&database, &between).await, [("42".to_owned(), at)]);
    assert_eq!(opened_says(&database, "42").await, Some(at));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_another_revocation_of_the_same_user() {
    let database = Database::new().await;
    database.run("select notifier.revoke_user('42'), notifier.revoke_user('42')").await;
    let first = database.anew().await.owner;
    first.batch_execute("begin; select notifier.revoke_user('42')").await.unwrap();
    // (The commit of what NOTIFYs may wait for a neighbour's.)
    database
        .run(
            "set statement_timeout = '30s'; begin; set local lock_timeout = '1ms'; select notifier.revoke_user('42');
              set local lock_timeout = 0; commit",
        )
        .await;
    // Nor does the service, which lets go of those that a later one made needless.
    database.run("select notifier.forget()").await;
    first.batch_execute("commit").await.unwrap();
    assert_eq!(database.one::<i64>("select count(*) from notifier.revocation").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_of_no_user_is_refused_with_what_to_write() {
    let database = Database::new().await;
    for (argument, state, says) in [
        ("null", "22004", "user_id is null"),
        ("''", "22023", "user_id has 0 bytes"),
        ("repeat('x', 256)", "22023", "user_id has 256 bytes"),
        ("repeat('ü', 128)", "22023", "user_id has 256 bytes"),
    ] {
        let error = refusal(&database.owner, &format!("select notifier.revoke_user({argument})")).await;
        assert_eq!((error.code().code(), error.message()), (state, says));
        assert!(error.hint().unwrap().contains("select notifier.revoke_user('42')"), "{error:?}");
    }
    database.run("select notifier.revoke_user(repeat('x', 255))").await;
}

/// Who is revoked stays so in a copy of the database, whose transaction ids are of another cluster, and all instances hear
/// of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_restored_database_still_says_who_is_revoked() {
    let database = Database::new().await;
    database.run("select notifier.revoke_user('42'), notifier.revoke_user('42'), notifier.revoke_user('8')").await;
    let at: f64 = database.one(REVOKED_AT).await;
    // As a dump and its restore into a younger cluster leave it.
    let superuser = database.superuser().await;
    superuser
        .batch_execute(
            "update notifier.epoch set system_identifier = 1;
             update notifier.revocation set xid = (pg_current_xact_id()::text::bigint + 5000000)::text::xid8",
        )
        .await
        .unwrap();
    // Another instance is about to forget what a later one made needless: that is not waited for.
    let other = database.anew().await.owner;
    other.batch_execute("begin; delete from notifier.revocation where id = 1").await.unwrap();
    database.run("set lock_timeout = '1ms'").await;
    let from: String = database.one("select position from notifier.identify('')").await;
    other.batch_execute("commit").await.unwrap();
    assert_eq!(from, "4:4:");
    let said = revoked_since(&database, &from).await;
    assert_eq!(said.iter().map(|(user, _)| user.as_str()).collect::<Vec<_>>(), ["42", "8"]);
    assert_eq!(said[0].1, at, "it counts from when it was said");
    assert_eq!(opened_says(&database, "42").await, Some(at));
    // And not for ever.
    assert_eq!(revoked_since(&database, &position(&database.owner).await).await, []);
    // By hand on a clone of the same cluster: no row is touched, and all hold.
    database.run("select notifier.new_epoch()").await;
    assert_eq!(opened_says(&database, "42").await, Some(at));
}

#[tokio::test(flavor = "multi_thread")]
async fn revocations_that_a_later_one_made_needless_are_forgotten_in_batches() {
    let database = Database::new().await;
    database
        .run(
            "insert into notifier.revocation (user_id, revoked_at)
             select n % 3, now() - interval '1 hour' * n from generate_series(3, 2502) n;
             update notifier.progress set swept_at = now() - interval '1 day'",
        )
        .await;
    let newest = "select string_agg(revoked_at::text, ' ' order by user_id) from
                  (select user_id, max(revoked_at) as revoked_at from notifier.revocation group by user_id) r";
    let (kept, count) = (database.one::<String>(newest).await, "select count(*) from notifier.revocation");
    let held = database.anew().await.owner;
    held.batch_execute("begin; select from notifier.revocation where id = 2500 for update").await.unwrap();
    let forgot = "select notifier.forget()";
    for left in [1501, 502, 4] {
        assert!(database.one::<bool>(forgot).await);
        assert_eq!(database.one::<i64>(count).await, left, "a thousand at a time, and not what somebody holds");
    }
    assert!(!database.one::<bool>(forgot).await);
    held.batch_execute("commit").await.unwrap();
    // The next day, and not before.
    database.run("update notifier.progress set swept_at = now() + interval '1 hour'").await;
    assert!(!database.one::<bool>(forgot).await);
    database.run("update notifier.progress set swept_at = now() - interval '1 day'").await;
    assert!(database.one::<bool>(forgot).await);
    assert_eq!((database.one::<i64>(count).await, database.one::<String>(newest).await), (3, kept));
}

/// What a ticket that was redeemed says, if it was good.
type Redeemed = Option<(String, Option<f64>, Option<f64>, Option<Vec<u8>>)>;

async fn redeem(client: &Client, tickets: &[u32]) -> Vec<Redeemed> {
    let hashes: Vec<_> = tickets.iter().copied().map(hash).collect();
    let rows = client.query("select * from notifier.redeem_tickets($1)", &[&hashes]).await.unwrap();
    let redeemed =
        |row: &tokio_postgres::Row| Some((row.get::<_, Option<String>>(0)?, row.get(1), row.get(2), row.get(3)));
    rows.iter().map(redeemed).collect()
}

async fn issue(client: &Client, ticket: u32, user: &str) -> f64 {
    let sql = "select notifier.issue_ticket($1, $2, 1763900000.123456, 600, '\\x0102')";
    client.query_one(sql, &[&hash(ticket), &user]).await.unwrap().get(0)
}

async fn good(client: &Client, tickets: &[u32]) -> Vec<bool> {
    redeem(client, tickets).await.iter().map(Option::is_some).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_says_what_it_stands_for_and_is_good_once() {
    let database = Database::new().await;
    let owner = &database.owner;
    assert_eq!(issue(owner, 1, "42").await, 30.0);
    owner.query_one("select notifier.issue_ticket($1, '8', null, null, null)", &[&hash(2)]).await.unwrap();
    let seconds =
        "select extract(epoch from expires_at - clock_timestamp())::double precision from notifier.ticket limit 1";
    let seconds: f64 = database.one(seconds).await;
    assert!(seconds > 0.0 && seconds <= 30.0, "{seconds}");

    // In order; one that is unknown, and one that stands there twice.
    let mut redeemed = redeem(owner, &[7, 2, 1, 2]).await;
    assert_eq!((&redeemed[0], &redeemed[3]), (&None, &None));
    assert_eq!(redeemed[1], Some(("8".to_owned(), None, None, None)));
    let (user, issued, expires_in, sealed) = redeemed.swap_remove(2).unwrap();
    assert_eq!((user.as_str(), issued, sealed), ("42", Some(1_763_900_000.123_456), Some(vec![1, 2])));
    assert!((500.0..=600.0).contains(&expires_in.unwrap()), "{expires_in:?}");
    assert_eq!(good(owner, &[1, 2]).await, [false, false]);

    // Too late, or for a credential that has ended.
    for (ticket, late) in [(3, "expires_at = clock_timestamp()"), (4, "credential_expires = clock_timestamp()")] {
        issue(owner, ticket, "42").await;
        database.run(&format!("update notifier.ticket set {late}")).await;
        assert_eq!(good(owner, &[ticket]).await, [false], "{late}");
        assert_eq!(database.one::<i64>("select count(*) from notifier.ticket").await, 0, "and it is gone");
    }
    // Whatever number a credential says.
    for (ticket, expires_in, is_good) in
        [(5, "-1e300", false), (6, "1e300", true), (7, "infinity", true), (8, "0", false)]
    {
        let sql = format!("select notifier.issue_ticket($1, '42', 1e300, '{expires_in}', null)");
        owner.query_one(&sql, &[&hash(ticket)]).await.unwrap();
        assert_eq!(good(owner, &[ticket]).await, [is_good], "{expires_in}");
    }
    let error = refusal(owner, "select notifier.issue_ticket('short', '42', null, null, null)").await;
    assert_eq!(error.constraint(), Some("hash_has_32_bytes"));
}

/// Sixteen instances redeem the same tickets at once, in orders of their own: each lets one in, and nobody deadlocks.
#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_is_good_once_whoever_redeems_it_at_the_same_instant() {
    let database = Database::new().await;
    let instances = join_all((0..16).map(|_| async { database.anew().await.owner })).await;
    for round in 0..20 {
        let tickets: Vec<u32> = (round * 100..round * 100 + 40).collect();
        for &ticket in &tickets {
            issue(&database.owner, ticket, &(ticket % 4).to_string()).await;
        }
        let redeemed = join_all(instances.iter().map(|instance| {
            let mut mine = tickets.clone();
            fastrand::shuffle(&mut mine);
            // Not all of them ask for all.
            mine.truncate(30);
            async move { mine.iter().copied().zip(good(instance, &mine).await).collect::<Vec<_>>() }
        }))
        .await;
        let asked: BTreeSet<u32> = redeemed.iter().flatten().map(|(ticket, _)| *ticket).collect();
        let mut entered: Vec<u32> =
            redeemed.iter().flatten().filter(|(_, good)| *good).map(|(ticket, _)| *ticket).collect();
        entered.sort_unstable();
        assert_eq!(entered, asked.into_iter().collect::<Vec<_>>(), "each once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_has_at_most_32_unused_tickets_and_issuing_waits_for_nobody() {
    let database = Database::new().await;
    for ticket in 0..40 {
        issue(&database.owner, ticket, "42").await;
    }
    issue(&database.owner, 100, "8").await;
    assert_eq!(good(&database.owner, &[100]).await, [true], "another's are another's");
    let count = "select count(*) from notifier.ticket where user_id = '42'";
    assert_eq!(database.one::<i64>(count).await, 32);
    assert_eq!(good(&database.owner, &[7, 8]).await, [false, true], "the oldest have gone");

    // The one that would go is being redeemed elsewhere, and another call has not committed.
    issue(&database.owner, 50, "42").await;
    let other = database.anew().await.owner;
    other.batch_execute("begin").await.unwrap();
    assert_eq!(good(&other, &[9]).await, [true]);
    issue(&other, 51, "42").await;
    database.run("set lock_timeout = '1ms'").await;
    issue(&database.owner, 52, "42").await;
    other.batch_execute("commit").await.unwrap();
    issue(&database.owner, 53, "42").await;
    assert_eq!(database.one::<i64>(count).await, 32);

    // Many at once.
    let instances = join_all((0..8).map(|_| async { database.anew().await.owner })).await;
    join_all(instances.iter().zip(1..).map(|(instance, number)| async move {
        for ticket in 0..50 {
            issue(instance, number * 1000 + ticket, "42").await;
        }
    }))
    .await;
    issue(&database.owner, 60, "42").await;
    assert_eq!(database.one::<i64>(count).await, 32);
    assert_eq!(good(&database.owner, &[60]).await, [true]);
}

#[tokio::test(flavor = "multi_thread")]
async fn tickets_that_are_too_old_are_forgotten_and_nobody_is_waited_for() {
    let database = Database::new().await;
    database
        .run(
            "insert into notifier.ticket (hash, user_id, expires_at)
             select sha256(n::text::bytea), '42', now() - interval '1 minute' from generate_series(1, 1500) n;
             insert into notifier.ticket (hash, user_id, expires_at) values (sha256('good'), '42', now() + interval '1 hour')",
        )
        .await;
    let held = database.anew().await.owner;
    held.batch_execute("begin; select from notifier.ticket where hash = sha256('7') for update").await.unwrap();
    let service = Service::on(&database).await;
    let count = "select count(*) from notifier.ticket";
    eventually("all but one are gone", async || database.one::<i64>(count).await == 2).await;
    eventually("it goes on", async || {
        database.one("select swept_at > now() - interval '5 minutes' from notifier.progress").await
    })
    .await;
    held.batch_execute("commit").await.unwrap();
    assert_eq!(database.faults().await, 0);
    service.stop().await;
    assert!(database.one::<bool>("select notifier.forget()").await);
    assert!(!database.one::<bool>("select notifier.forget()").await);
    assert_eq!(database.one::<i64>(count).await, 1, "one is still good");
}

/// The tables that the recipes read, as their comments say that they look; on a server of their own, to which roles belong.
async fn with_applications() -> Database {
    let database = Database::alone().await;
    let superuser = database.superuser().await;
    superuser
        .batch_execute(
            "create role notifier_service nologin; create role a_service login in role notifier_service; create role nobody login;
             revoke all on schema public from public; grant usage on schema public to parkmate",
        )
        .await
        .unwrap();
    for recipe in [SESSIONS, API_KEYS, DJANGO] {
        assert!(recipe.contains("revoke execute on function"), "{recipe}");
    }
    database.run("create schema app").await;
    database.run(&[table_of(SESSIONS, "app.session"), table_of(API_KEYS, "app.api_key")].concat()).await;
    database.run(DJANGO_TABLES).await;
    database
        .run(
            "insert into app.session values
               (sha256('good'), 42, now() + interval '1 hour'), (sha256('late'), 42, now() - interval '1 second'),
               (sha256('now'), 42, now()), (sha256('endless'), 43, 'infinity');
             insert into app.session values (sha256('left'), 42, now() + interval '1 hour', now());
             insert into app.api_key (key_hash, user_id) values (sha256('key'), 42);
             insert into app.api_key (key_hash, user_id, revoked_at) values (sha256('lost'), 43, now());
             insert into public.auth_user values (42, 'paula', true), (43, 'quentin', false);
             insert into public.authtoken_token values
               ('9944b09199c62bcf9418ad846dd0e4bbdfc6ee4b', now(), 42), ('1144b09199c62bcf9418ad846dd0e4bbdfc6ee4b', now(), 43)",
        )
        .await;
    database.run(&[SESSIONS, API_KEYS, DJANGO].concat()).await;
    parkmate_notifier::store::Store::new(&database.url().parse().unwrap(), 2).unwrap().migrate().await.unwrap();
    database
}

const SESSIONS: &str = include_str!("../sql/auth/sessions.sql");
const API_KEYS: &str = include_str!("../sql/auth/api_keys.sql");
const DJANGO: &str = include_str!("../sql/auth/django_rest_tokens.sql");

/// As Django 5 and its REST framework create them.
const DJANGO_TABLES: &str = r#"
    create table public.auth_user (
      id integer generated by default as identity primary key, username varchar(150) not null unique, is_active boolean not null);
    create table public.authtoken_token (
      key varchar(40) primary key, created timestamp with time zone not null, user_id integer not null unique
      references public.auth_user (id) deferrable initially deferred);
    create index authtoken_token_key_10f0b77e_like on public.authtoken_token (key varchar_pattern_ops);
"#;

/// The `create table` in a recipe's comment.
fn table_of(recipe: &str, name: &str) -> String {
    let lines = recipe.lines().map_while(|line| line.strip_prefix("--"));
    let from = lines.skip_while(|line| !line.contains(&format!("create table {name} (")));
    let mut table = String::new();
    for line in from {
        table += line.split("--").next().unwrap();
        if line.trim() == ");" {
            return table;
        }
    }
    panic!("no table {name} in {recipe}");
}

async fn as_role(database: &Database, role: &str) -> Client {
    database::connect(&Place::of(database).url(role)).await
}

/// What a function says of tokens, as the service asks: user, seconds, revoked before.
type Said = (Option<String>, Option<f64>, Option<f64>);

async fn authenticate(client: &Client, function: &str, tokens: &[Option<&str>]) -> Vec<Said> {
    let name: String = client.query_one("select notifier.auth_function($1)", &[&function]).await.unwrap().get(0);
    let rows = client.query("select * from notifier.authenticate($1, $2)", &[&name, &tokens]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

fn user(said: &Said) -> &str {
    said.0.as_deref().unwrap_or("nobody")
}

#[tokio::test(flavor = "multi_thread")]
async fn each_shipped_recipe_lets_in_whom_it_should_and_the_service_reads_no_table() {
    let database = with_applications().await;
    let service = as_role(&database, "a_service").await;
    let long = "x".repeat(8192);
    let garbage =
        [None, Some(""), Some("unknown"), Some("' or true --"), Some("\\x00"), Some("%"), Some("🅿️"), Some(&long)];
    for (function, tokens, expected) in [
        (
            "app.authenticate",
            vec![Some("good"), Some("late"), Some("now"), Some("left"), Some("endless"), Some("Good"), Some("good")],
            vec!["42", "nobody", "nobody", "nobody", "43", "nobody", "42"],
        ),
        ("app.authenticate_key", vec![Some("lost"), Some("key"), Some("key ")], vec!["nobody", "42", "nobody"]),
        (
            "public.authenticate_rest_token",
            vec![
                Some("1144b09199c62bcf9418ad846dd0e4bbdfc6ee4b"),
                Some("9944b09199c62bcf9418ad846dd0e4bbdfc6ee4b"),
                Some("9944B09199C62BCF9418AD846DD0E4BBDFC6EE4B"),
                Some("9944b09199c62bcf9418ad846dd0e4bbdfc6ee4"),
            ],
            vec!["nobody", "42", "nobody", "nobody"],
        ),
    ] {
        let said = authenticate(&service, function, &tokens).await;
        assert_eq!(said.iter().map(user).collect::<Vec<_>>(), expected, "{function} {tokens:?}");
        let said = authenticate(&service, function, &garbage).await;
        assert_eq!(said, vec![(None, None, None); garbage.len()], "{function}");
        let nobody = as_role(&database, "nobody").await;
        for client in [&nobody, &database.app] {
            let refused = refusal(client, &format!("select * from {function}('good')")).await;
            assert_eq!(refused.code().code(), "42501", "{function}");
        }
    }
    // When they end: in an hour, never, never.
    let sessions = authenticate(&service, "app.authenticate", &[Some("good"), Some("endless")]).await;
    assert!((3500.0..=3600.0).contains(&sessions[0].1.unwrap()), "{sessions:?}");
    assert_eq!(sessions[1].1, None);
    assert_eq!(authenticate(&service, "app.authenticate_key", &[Some("key")]).await[0].1, None);
    for table in ["app.session", "app.api_key", "public.authtoken_token", "public.auth_user"] {
        assert_eq!(refusal(&service, &format!("select from {table}")).await.code().code(), "42501", "{table}");
        let found = database.owner.query_one(&format!("select count(*) from {table}"), &[]).await.unwrap();
        assert!(found.get::<_, i64>(0) > 0);
    }

    // Each finds its row by an index, however many there are.
    database
        .run(
            "insert into app.session select sha256(n::text::bytea), n, now() from generate_series(1, 20000) n;
             insert into app.api_key (key_hash, user_id) select sha256(n::text::bytea), n from generate_series(1, 20000) n;
             insert into public.auth_user select n, n, true from generate_series(1000, 21000) n;
             insert into public.authtoken_token select md5(n::text), now(), n from generate_series(1000, 21000) n;
             analyze app.session, app.api_key, public.authtoken_token, public.auth_user",
        )
        .await;
    let scans = "select sum(seq_scan)::bigint from pg_stat_user_tables
                 where relname in ('session', 'api_key', 'authtoken_token', 'auth_user')";
    // A session reports what it did when it ends, at the latest.
    database.superuser().await.batch_execute("select pg_stat_reset()").await.unwrap();
    let asking = as_role(&database, "a_service").await;
    for function in ["app.authenticate", "app.authenticate_key", "public.authenticate_rest_token"] {
        authenticate(&asking, function, &[Some("9944b09199c62bcf9418ad846dd0e4bbdfc6ee4b"); 100]).await;
    }
    drop(asking);
    let probes = "select sum(idx_scan)::bigint from pg_stat_user_tables where relname in ('session', 'api_key', 'authtoken_token')";
    eventually("what was read is counted", async || database.anew().await.one::<i64>(probes).await >= 300).await;
    assert_eq!(database.anew().await.one::<i64>(scans).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn any_function_that_fits_is_asked_for_each_token() {
    let database = Database::new().await;
    database
        .run(
            "create schema app;
             create function app.who(token text, out extra int, out user_id bigint, out expires_at timestamptz) language plpgsql as $$
             begin
               if token = 'broken' then raise exception 'this one breaks'; end if;
               user_id := nullif(token, 'none')::bigint;
             end $$;
             create function app.many(text) returns table (user_id uuid, expires_at timestamptz) language sql as
               $$ select gen_random_uuid(), now() + interval '1 hour' from generate_series(1, length($1)) $$;
             create table app.token (token text, user_id int, expires_at timestamptz);
             create function app.rows(text) returns setof app.token language sql volatile as 'select * from app.token where token = $1';
             set search_path = app;
             create function app.by_the_path(text) returns setof app.token language sql as 'select * from token where token = $1';
             reset search_path;
             insert into app.token values ('x', 7, null);
             select notifier.revoke_user('42')",
        )
        .await;
    let owner = &database.owner;
    let at: f64 = database.one(REVOKED_AT).await;
    let said = authenticate(owner, "app.who", &[Some("42"), Some("none"), Some("8")]).await;
    assert_eq!(said, [(Some("42".into()), None, Some(at)), (None, None, None), (Some("8".into()), None, None)]);
    assert_eq!(authenticate(owner, "app.rows", &[Some("x")]).await, [(Some("7".into()), None, None)]);
    assert_eq!(authenticate(owner, "app.who", &[]).await, []);
    let said = authenticate(owner, "app.many", &[Some("x"), Some("")]).await;
    assert!(said[0].0.as_ref().is_some_and(|user| user.len() == 36) && said[1] == (None, None, None), "{said:?}");

    let error = refusal(owner, "select notifier.authenticate('app.many', array['x', 'secret'])").await;
    assert_eq!(
        (error.code().code(), error.message()),
        ("21000", "app.many(text) returned more than one row for a token")
    );
    assert!(!format!("{error:?}").contains("secret"), "{error:?}");
    let error = refusal(owner, "select notifier.authenticate('app.who', array['42', 'broken'])").await;
    assert_eq!(error.message(), "this one breaks");
    // One that relies on the session's search_path finds what that leads to.
    database.run("set search_path = app").await;
    assert_eq!(authenticate(owner, "app.by_the_path", &[Some("x")]).await, [(Some("7".into()), None, None)]);
}

/// A revocation that is committed while the function looks may have come too late for what it saw: it counts as a later one.
#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_that_comes_while_a_token_is_looked_at_is_later() {
    let database = Database::new().await;
    database
        .run(
            "create schema app;
             create function app.slow(text) returns table (user_id text, expires_at timestamptz) language plpgsql as
               $$ begin perform pg_advisory_xact_lock(6, 6); return query select '42', null::timestamptz; end $$;
             select pg_advisory_lock(6, 6)",
        )
        .await;
    let asking = database.anew().await.owner;
    let before = position(&database.owner).await;
    let meanwhile = async {
        eventually("the function looks", async || {
            let waits = "select count(*) from pg_locks where locktype = 'advisory' and objid = 6 and not granted
                         and database = (select oid from pg_database where datname = current_database())";
            database.one::<i64>(waits).await == 1
        })
        .await;
        database.run("select notifier.revoke_user('42'); select pg_advisory_unlock(6, 6)").await;
    };
    let (said, ()) = tokio::join!(authenticate(&asking, "app.slow", &[Some("x")]), meanwhile);
    assert_eq!(said, [(Some("42".into()), None, None)]);
    assert_eq!(revoked_since(&database, &before).await.len(), 1, "its instance hears of it");
    let at: f64 = database.one(REVOKED_AT).await;
    assert_eq!(authenticate(&asking, "app.slow", &[Some("x")]).await, [(Some("42".into()), None, Some(at))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_mistake_about_the_function_has_its_answer() {
    let database = with_applications().await;
    database
        .run(
            r#"create function app.number(int) returns int language sql as 'select 1';
               create function app.scalar(text) returns text language sql as 'select $1';
               create function app.named(text) returns table (id int, expires_at timestamptz) language sql as 'select 1, now()';
               create function app.endless(text) returns table (user_id int) language sql as 'select 1';
               create function app.zoneless(text) returns table (user_id int, expires_at timestamp) language sql as 'select 1, now()::timestamp';
               create function app.record(text) returns record language sql as 'select 1, now()';
               create procedure app.procedure(text) language sql as 'select 1';
               create function app."Odd "" name"(text) returns setof app.session language sql as 'select * from app.session';
               create function app.hidden(text) returns setof app.session language sql as 'select * from app.session';
               revoke execute on function app.hidden(text) from public;
               create schema secret;
               create function secret.who(text) returns setof app.session language sql as 'select * from app.session'"#,
        )
        .await;
    let service = as_role(&database, "a_service").await;
    let example = "create function app.authenticate(token text) returns table (user_id text, expires_at timestamptz)";
    for (name, state, says, hint) in [
        ("null", "42602", "null is no name", example),
        ("''", "42602", "'' is no name", example),
        ("'app.authenticate; drop table x'", "42602", "is no name", example),
        ("'app.'", "42602", "is no name", example),
        ("'unheard_of'", "42602", "not of the form schema.function", example),
        ("'authenticate_key'", "42602", "not of the form schema.function", "Perhaps you meant app.authenticate_key."),
        ("'db.app.authenticate'", "42602", "not of the form schema.function", "Perhaps you meant app.authenticate."),
        ("'ap.authenticate'", "3F000", "there is no schema ap", "create function ap.authenticate(token text)"),
        (
            "'app.autenticate'",
            "42883",
            "app.autenticate(text): there is none",
            "create function app.autenticate(token text)",
        ),
        (
            "'app.number'",
            "42883",
            "there is number(integer), and none that takes a text",
            "create function app.number(token text)",
        ),
        ("'app.procedure'", "42809", "it is a procedure", "create function app.procedure(token text)"),
        (
            "'app.scalar'",
            "42804",
            "it returns text, and no columns user_id and expires_at",
            "create function app.scalar",
        ),
        (
            "'app.record'",
            "42804",
            "it returns record, and no columns user_id and expires_at",
            "create function app.record",
        ),
        ("'app.named'", "42703", "it returns no column user_id", "create function app.named"),
        ("'app.endless'", "42703", "it returns no column expires_at", "create function app.endless"),
        (
            "'app.zoneless'",
            "42804",
            "its expires_at is of type timestamp without time zone",
            "create function app.zoneless",
        ),
        (
            "'app.hidden'",
            "42501",
            "a_service may not execute it",
            "grant execute on function app.hidden(text) to a_service;",
        ),
        (
            "'secret.who'",
            "42501",
            "a_service may not use the schema secret",
            "grant usage on schema secret to a_service;",
        ),
    ] {
        let error = refusal(&service, &format!("select notifier.auth_function({name})")).await;
        assert_eq!(error.code().code(), state, "{name}: {error:?}");
        assert!(error.message().contains(says), "{name}: {error:?}");
        assert!(error.hint().is_some_and(|said| said.contains(hint)), "{name}: {error:?}");
    }
    let error = refusal(&service, "select notifier.auth_function('app.named')").await;
    assert_eq!(error.detail(), Some("It returns: id, expires_at."));
    let error = refusal(&service, "select notifier.auth_function('app.autenticate')").await;
    assert!(error.detail().unwrap().contains("authenticate, authenticate_key"), "{error:?}");

    // However it is written.
    for (name, written) in [
        (" App . AUTHENTICATE ", "app.authenticate"),
        ("app.authenticate(text)", "app.authenticate"),
        ("app.authenticate(token text)", "app.authenticate"),
        (r#"app."Odd "" name""#, r#"app."Odd "" name""#),
    ] {
        let said: String = service.query_one("select notifier.auth_function($1)", &[&name]).await.unwrap().get(0);
        assert_eq!(said, written);
    }
    // The example is one: run as it stands, it is accepted.
    let error = refusal(&service, "select notifier.auth_function('app.mine')").await;
    let (_, example) = error.hint().unwrap().split_once('\n').unwrap();
    database.run(example).await;
    assert_eq!(user(&authenticate(&service, "app.mine", &[Some("good")]).await[0]), "42");
}
