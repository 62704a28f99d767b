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
