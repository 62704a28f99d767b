//! What a DBA looks after events with: the script that defines them all, what each did, and what broke.

use crate::support::Database;

async fn export(database: &Database) -> String {
    database.one("select notifier.export_events()").await
}

async fn versions(database: &Database) -> String {
    database.one("select string_agg(name || ' ' || version, ', ' order by name) from notifier.event").await
}

/// Tables and texts that are not easily written down again.
const ODD_TABLES: &str = r#"
    create schema "My App";
    create table "My App"."PAY""MENT's" ("user" text, "End" timestamptz, "$$" int, primary key ("$$", "user"));
    create table public.plain (id int primary key, user_id int, at timestamptz);"#;
const ODD_EVENTS: &str = r#"
    select notifier.define_event('odd.quotes', '"My App"."PAY""MENT''s"', 'insert or update', 'info',
      E'It''s \\ {{"x"}} \\n $$ {n}\nand a line %L %s',
      E'select "user" as user_id, "$$" as n, ''$query$'' as q, E''\\\\\\t'' as e\r\n\tfrom   changed   -- who''s told;');
    select notifier.define_event('odd.one_line', 'public.plain', 'delete', 'success', 'Gone.', 'select user_id from old -- $;  ');
"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_exported_script_brings_all_events_back_and_changes_nothing_where_they_are() {
    let database = Database::new().await;
    database.run(ODD_TABLES).await;
    database.run(ODD_EVENTS).await;
    // Queries with the letters that quote them.
    for (name, query) in [
        ("odd.d0", "select user_id, 'a$' as \"$\" from new -- $"),
        ("odd.d1", "\n  select user_id, '$$' as a from new"),
        ("odd.d2", "select user_id, '$$ $query$ $query' as a from new /* $query$\n */"),
        ("odd.d3", "select user_id, '$$' as \"$query\" from new -- $query"),
        ("odd.d4", "select user_id from new -- $query"),
    ] {
        let define = "select notifier.define_event($1, 'public.plain', 'insert', 'info', $1, $2)";
        database.owner.query(define, &[&name, &query]).await.unwrap();
        let kept: String = database.one(&format!("select query from notifier.event where name = '{name}'")).await;
        assert_eq!(kept, query);
    }
    database
        .run("select notifier.define_timer('odd.timer', 'public.plain', e'  at -- when it is\\n', 'info', 'Now.', 'select user_id from due')")
        .await;
    let (script, before) = (export(&database).await, versions(&database).await);
    let written = include_str!("../sql/parkmate/events.sql");
    let as_written = script.split("\n\n").filter(|statement| written.contains(*statement)).count();
    assert_eq!(as_written, 10, "laid out as a person would\n{script}");

    database.run(&script).await;
    assert_eq!(versions(&database).await, before, "on top of itself it changes nothing");
    assert_eq!(export(&database).await, script);

    database.run("select notifier.drop_event(name) from notifier.event").await;
    assert_eq!(export(&database).await.matches("define").count(), 1, "the first line alone");
    database.run(&script).await;
    assert_eq!(export(&database).await, script);

    let copy = Database::new().await;
    copy.run("select notifier.drop_event(name) from notifier.event").await;
    copy.run(ODD_TABLES).await;
    copy.run(&script).await;
    assert_eq!(export(&copy).await, script);
    let all = "select string_agg(to_jsonb(d)::text, e'\\n' order by name) from (select name, kind, source, operation, level, message,
               query, due, until, installed from notifier.event) d";
    assert_eq!(copy.one::<String>(all).await, database.one::<String>(all).await);

    // All or nothing.
    copy.run("select notifier.drop_event(name) from notifier.event; drop table public.plain").await;
    copy.owner.batch_execute(&script).await.unwrap_err();
    copy.run("rollback").await;
    assert_eq!(copy.one::<i64>("select count(*) from notifier.event").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_exported_script_pauses_what_is_paused_and_leaves_out_what_has_no_table() {
    let database = Database::new().await;
    database
        .run(
            "select notifier.drop_event(name) from notifier.event where name not in ('payment.verified', 'carwash.completed');
             create table public.later (user_id int); create table public.gone (user_id int);
             select notifier.define_event('later.event', 'public.later', 'insert', 'info', 'a\\b', 'select user_id from new');
             select notifier.define_event('gone.event', 'public.gone', 'insert', 'info', 'Gone.', e'select user_id\nfrom new');
             drop table public.gone, public.later; create table public.later (user_id int);
             update notifier.definition set paused_at = now(), paused_by = 'dba', paused_because = 'too many'
             where name = 'payment.verified'",
        )
        .await;
    assert_eq!(
        export(&database).await,
        r#"-- The events and timers of schema notifier: all are defined, or none.
begin;
set local standard_conforming_strings = on;

select notifier.define_event(
  name      => 'carwash.completed',
  source    => 'public.carwash',
  operation => 'update',
  level     => 'success',
  message   => 'Your car wash ({service}) is completed.',
  query     => $$
    select booking.user_id, changed.id as carwash_id, changed.booking_id, changed.service
    from   changed
    join   public.booking on booking.id = changed.booking_id
    where  lower(changed.status) = 'completed' and lower((changed.was).status) is distinct from 'completed'
  $$);

-- Not defined, because the table is gone:
-- select notifier.define_event(
--   name      => 'gone.event',
--   source    => 'public.gone',
--   operation => 'insert',
--   level     => 'info',
--   message   => 'Gone.',
--   query     => $$select user_id
-- from new
--   $$);

select notifier.define_event(
  name      => 'later.event',
  source    => 'public.later',
  operation => 'insert',
  level     => 'info',
  message   => 'a\b',
  query     => $$select user_id from new$$);

select notifier.define_event(
  name      => 'payment.verified',
  source    => 'public.payment',
  operation => 'update',
  level     => 'success',
  message   => 'Cash payment verified.',
  query     => $$
    select user_id, id as payment_id, booking_id, amount
    from   changed
    where  lower(method) = 'cash'
      and  lower(status) = 'verified' and lower((was).status) is distinct from 'verified'
  $$);
select notifier.pause_event('payment.verified');

commit;
"#
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_each_event_did_is_counted_since_a_time() {
    let database = Database::new().await;
    let hour = "now() - interval '1 hour'";
    let told = async |since: &str, event: &str| {
        let stats = format!(
            "select format('%s %s: %s to %s, %s delivered, %s read, %s wait, %s, %s, %s faults', s.event, s.kind, s.notifications,
                    s.users, s.delivered, s.read, s.waiting, coalesce(s.median_delivery::text, 'never'),
                    coalesce(now() - s.last_told_at < interval '1 minute', false), s.faults)
             from notifier.event_stats({since}) s where s.event = '{event}'"
        );
        database.rows(&stats).await.first().map(|row| row.get::<_, String>(0)).unwrap_or_default()
    };
    assert_eq!(database.one::<i64>("select count(*) from notifier.event_stats()").await, 10, "told or not");
    let nothing = "payment.verified write: 0 to 0, 0 delivered, 0 read, 0 wait, never, f, 0 faults";
    assert_eq!(told(hour, "payment.verified").await, nothing);

    // Five, of two users, of which one was dealt with in each way, and the last but one is too late to wait.
    for _ in 0..2 {
        database.write("update payment set status = 'verified' where method = 'cash'").await;
        database.write("update payment set status = 'pending'").await;
    }
    database.write("update payment set status = 'verified' where id = 201").await;
    let ids: Vec<i64> = database.one("select array_agg(id order by id) from notifier.notification").await;
    assert_eq!(ids.len(), 5);
    for (id, set) in [
        (ids[0], "delivered_at = created_at + interval '1 second', read_at = created_at + interval '1 minute'"),
        (ids[1], "delivered_at = created_at + interval '3 seconds'"),
        (ids[2], "summarized_at = created_at"),
        (ids[3], "until = created_at"),
    ] {
        database.run(&format!("update notifier.notification set {set} where id = {id}")).await;
    }
    let five = "payment.verified write: 5 to 2, 2 delivered, 1 read, 1 wait, 00:00:02, t, 0 faults";
    assert_eq!(told(hour, "payment.verified").await, five);
    assert_eq!(told("null", "payment.verified").await, five);
    assert_eq!(told("'-infinity'", "payment.verified").await, five);
    assert_eq!(told("clock_timestamp()", "payment.verified").await, nothing);

    // Yesterday's and last week's, and what was there before `since`.
    for days in [2, 8, 14] {
        database
            .run(&format!(
                "insert into notifier.notification (slot, user_id, event, level, message, data, created_at)
                 select notifier.slot(c.at), '9', 'booking.declined', 'info', 'x', '{{}}', c.at
                 from (select now() - interval '{days} days' as at) c"
            ))
            .await;
    }
    for (since, count) in [("1 day", 0), ("49 hours", 1), ("9 days", 2), ("15 days", 3), ("16 days", 3), ("90 days", 3)]
    {
        let declined = told(&format!("now() - interval '{since}'"), "booking.declined").await;
        assert!(declined.starts_with(&format!("booking.declined write: {count} to ")), "{since}: {declined}");
    }

    // What was sent, and what is no more.
    database.run("select notifier.send('7', 'info', 'Hello.', event => 'by.hand'); select notifier.drop_event('payment.verified')").await;
    assert_eq!(told(hour, "by.hand").await, "by.hand sent: 1 to 1, 0 delivered, 0 read, 1 wait, never, t, 0 faults");
    assert_eq!(told(hour, "payment.verified").await, five.replace("write", "dropped"));

    // Faults, as they come and as the service has counted them.
    database.run("alter table public.booking rename column status to state").await;
    database.write("update booking set state = state where id = 101").await;
    database
        .run(
            "insert into notifier.fault_total (event, sqlstate, message, first_seen, last_seen, count, last_id)
             values ('booking.declined', '22012', 'a', now() - interval '3 days', now() - interval '5 minutes', 7, 1),
                    ('booking.declined', '22012', 'b', now() - interval '3 days', now() - interval '2 days', 9, 1)",
        )
        .await;
    let declined = "booking.declined write: 0 to 0, 0 delivered, 0 read, 0 wait, never, f, 8 faults";
    assert_eq!(told(hour, "booking.declined").await, declined);
}

/// A day's statistics do not read two weeks of notifications.
#[tokio::test(flavor = "multi_thread")]
async fn statistics_read_no_leaves_but_those_of_their_days() {
    let database = Database::new().await;
    let scanned = "select count(*) from pg_locks l join pg_class c on c.oid = l.relation
                   where l.pid = pg_backend_pid() and c.relname ~ '^notification_[0-9]+$'";
    for (since, leaves) in [("1 hour", 2..=3), ("3 days", 5..=5), ("30 days", 16..=16)] {
        database.run("begin").await;
        database.rows(&format!("select * from notifier.event_stats(now() - interval '{since}')")).await;
        let locked: i64 = database.one(scanned).await;
        database.run("rollback").await;
        assert!(leaves.contains(&locked), "{since}: {locked}");
    }
}
