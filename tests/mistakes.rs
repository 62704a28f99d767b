//! Mistakes and their answers: what is refused, and in which words; and what is not refused but worth a warning.

use std::fmt::Write as _;

use tokio_postgres::Client;

use crate::support::Database;

/// The mistakes and their answers, in full.
const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/mistakes.txt");

/// A mistake as it stands in the file.
struct Mistake<'a> {
    title: &'a str,
    sql: String,
}

impl<'a> Mistake<'a> {
    /// `## title`, the SQL, and what came of it the last time, which is left out.
    fn parse(block: &'a str) -> Self {
        let (title, rest) = block.split_once('\n').unwrap();
        let sql: Vec<_> = rest.lines().take_while(|line| !line.starts_with("ERROR ")).collect();
        Self { title, sql: sql.join("\n").trim_end().to_owned() }
    }
}

/// What Postgres answers, as psql would show it; nothing when it is not refused.
async fn answer(client: &Client, sql: &str) -> String {
    let Err(error) = client.batch_execute(sql).await else { return String::new() };
    let error = error.as_db_error().unwrap_or_else(|| panic!("{error}"));
    let mut text = format!("ERROR {}: {}\n", error.code().code(), error.message());
    for (part, says) in [("DETAIL", error.detail()), ("HINT", error.hint())] {
        if let Some(says) = says {
            writeln!(text, "{part}: {says}").unwrap();
        }
    }
    text
}

/// All that a definition could leave behind. (`xmin`: a function that was replaced keeps its number.)
async fn catalog(database: &Database) -> String {
    database
        .one(
            "select md5(concat_ws('|',
               (select string_agg(d::text, '' order by name) from notifier.definition d),
               (select string_agg(h::text, '' order by name, version) from notifier.event_history h),
               (select string_agg(g::text, '' order by id) from notifier.generated g),
               (select string_agg(b::text, '' order by event) from notifier.backfill b),
               (select count(*) from notifier.timer), (select count(*) from notifier.scheduled), (select count(*) from notifier.notification),
               (select string_agg(t.oid || t.tgname, '' order by t.oid) from pg_trigger t),
               (select string_agg(p.oid || p.proname || p.xmin, '' order by p.oid) from pg_proc p),
               (select string_agg(c.oid || c.relname, '' order by c.oid) from pg_class c),
               (select string_agg(r.oid::text, '' order by r.oid) from pg_rewrite r)))",
        )
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_mistake_has_its_answer_and_changes_nothing() {
    let kept = std::fs::read_to_string(FILE).unwrap();
    let database = Database::new().await;
    let superuser = database.superuser().await;
    let version: i32 = database.one("select current_setting('server_version_num')::int / 10000").await;

    let mut parts = kept.split("\n## ");
    let mut asked = parts.next().unwrap().to_owned();
    let mut kinds = 0;
    for block in parts {
        let mistake = Mistake::parse(block);
        match mistake.title {
            "[setup]" => database.run(&mistake.sql).await,
            "[superuser]" => superuser.batch_execute(&mistake.sql).await.unwrap(),
            title if title.starts_with("[18]") && version < 18 => {
                asked += &format!("\n## {}\n", block.trim_end());
                continue;
            }
            title => {
                let before = catalog(&database).await;
                let answer = answer(&database.owner, &mistake.sql).await;
                assert!(!answer.is_empty(), "not refused: {title}\n{}", mistake.sql);
                assert!(answer.contains("\nHINT: ") || title.starts_with("[postgres]"), "no hint: {title}\n{answer}");
                assert!(!answer.to_lowercase().contains("<null>"), "{title}\n{answer}");
                assert_eq!(catalog(&database).await, before, "{title}: it left something behind");
                asked += &format!("\n## {title}\n{}\n{answer}", mistake.sql);
                kinds += 1;
                continue;
            }
        }
        asked += &format!("\n## {}\n{}\n", mistake.title, mistake.sql);
    }
    assert!(kinds >= 100, "{kinds}: the file was not read as it should be");
    if std::env::var_os("UPDATE_MISTAKES").is_some() {
        std::fs::write(FILE, &asked).unwrap();
    }
    let kept = std::fs::read_to_string(FILE).unwrap();
    for (kept, asked) in kept.split("\n## ").zip(asked.split("\n## ")) {
        assert_eq!(asked.trim_end(), kept.trim_end(), "UPDATE_MISTAKES=1 cargo test mistakes, if this is better");
    }
    assert_eq!(kept.split("\n## ").count(), asked.split("\n## ").count());
}

/// Semicolons, quotes and parentheses in texts and comments, recursion, sets, words of the clock that are no times: none is a mistake.
#[tokio::test(flavor = "multi_thread")]
async fn what_only_looks_like_a_mistake_is_taken() {
    let database = Database::new().await;
    for (operation, message, query) in [
        ("update", "{n}", "with recursive t(n) as (select 1 union all select n + 1 from t where n < 3) select 8 as user_id, n from t, changed"),
        ("update", "{a}", "(select user_id, null as a from new) union all (select user_id, 'x' from old) order by 1"),
        ("update", "{{}}", "table new"),
        (
            "update",
            "{n}",
            "/* who; */ -- paid;
             select distinct on (c.user_id) c.user_id, row_number() over w as n, array_agg(b.id) over w as ids
             from changed c join public.booking b on b.id = c.booking_id cross join lateral (select 1 as one) l
             window w as (partition by c.user_id) order by 1; ; ",
        ),
        (
            "insert or update",
            "{n} {at:DD.MM.YYYY HH24:MI} {day:DD.MM.} {took:HH24:MI} {small:000} {big:FM999} {real:0.0}",
            "select user_id, count(*) as n, now() as at, current_date as day, interval '1 hour' as took, 1::smallint as small,
               max(id) as big, 1.5::real as real
             from changed group by user_id having count(*) > 0",
        ),
        (
            "delete",
            "{gone}",
            "select user_id, to_jsonb(old) as gone, (select string_agg(method, ';') from old) as methods
             from old where method ~* 'a;b' and method in ('(', ')') and method <> $q$ ; ) $q$",
        ),
        (
            "update",
            "{before}",
            "select user_id::text || 'x' as user_id, (was).amount as before, case when amount > 5 then 1 end as flag, exists (select from public.booking)
             from changed where (was) is not null and (was).id is not distinct from id",
        ),
    ] {
        let define = format!(
            "select notifier.define_event('a.b', 'public.payment', '{operation}', 'info', '{message}', $mistake$ {query} $mistake$)"
        );
        database.run(&define).await;
    }
    for due in [
        "case when lower(status) = 'now' then start_time else end_time end",
        "date_trunc('day', end_time at time zone 'UTC') at time zone 'UTC'",
        "end_time + age(end_time, start_time) -- the comment ends here\n",
        "end_time + make_interval(mins => length('-- no comment'))",
    ] {
        let define = format!(
            "select notifier.define_timer('a.b', 'public.booking', $${due} $$, 'info', 'x', 'select user_id from due',
               until => $$ timestamptz 'infinity' $$)"
        );
        database.run(&define).await;
    }
}

/// Where the triggers are there, trying and replacing an event takes no lock that any writer, or anybody's index, would meet.
#[tokio::test(flavor = "multi_thread")]
async fn a_definition_anew_locks_its_tables_as_a_select_does() {
    let database = Database::new().await;
    let locks = database
        .rows(
            "with defined as materialized (
               select notifier.define_event('payment.verified', 'public.payment', 'update', 'info', 'x',
                 'select c.user_id from changed c join public.booking b on b.id = c.booking_id') union all
               select notifier.define_timer('booking.expired', 'public.booking', 'end_time', 'info', 'x', 'select user_id from due')
             )
             select distinct l.mode from (select count(*) from defined) d
             cross join lateral (select * from pg_locks where d.count > 0) l
             where l.pid = pg_backend_pid() and l.relation in ('public.payment'::regclass, 'public.booking'::regclass)",
        )
        .await;
    let modes: Vec<&str> = locks.iter().map(|row| row.get(0)).collect();
    assert_eq!(modes, ["AccessShareLock"]);
}

/// The lines that a definition returns with `warning: ` before them.
async fn warnings(database: &Database, definition: &str) -> Vec<String> {
    let lines = database.rows(&format!("select line from {definition} as line")).await;
    lines.iter().filter_map(|line| Some(line.get::<_, &str>(0).strip_prefix("warning: ")?.to_owned())).collect()
}

/// A table of some megabytes beside the parking application's small ones.
async fn with_large_tables() -> Database {
    let database = Database::new().await;
    database
        .run(
            "insert into public.parking_slot (lot_id, label)
             select 1 + g % 2, 'P' || g || repeat('x', 60) from generate_series(1, 30000) g;
             drop index public.parking_slot_lot_index;
             create table public.visit (id int, code varchar(20), \"Who\" int, at date) partition by range (at);
             create table public.visit_1 partition of public.visit for values from ('2020-01-01') to ('2021-01-01');
             create table public.visit_2 partition of public.visit for values from ('2021-01-01') to ('2022-01-01');
             insert into public.visit select g, 'c' || g, g, '2020-01-01'::date + g % 700 from generate_series(1, 60000) g;
             analyze public.parking_slot, public.visit",
        )
        .await;
    database
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_reads_a_large_table_for_each_write_is_told_which_index_it_needs() {
    let database = with_large_tables().await;
    let event = |operation: &str, query: &str| {
        format!("notifier.define_event('a.b', 'public.parking_lot', '{operation}', 'info', 'x', $$ {query} $$)")
    };
    let slots = "all of public.parking_slot (3.4 MB): create index concurrently on public.parking_slot";
    let visits = "all of public.visit (3.0 MB): create index on public.visit";
    for (definition, says) in [
        // A join, a subquery in the select list, and one in the condition.
        (
            event("update", "select owner_id as user_id from changed c join public.parking_slot s on s.label = c.name"),
            format!("each statement reads {slots} (label);"),
        ),
        (
            event(
                "delete",
                "select owner_id as user_id, (select min(s.label) from public.parking_slot s where s.lot_id = old.id and s.label = old.name) as first from old",
            ),
            format!("each statement reads {slots} (lot_id, label);"),
        ),
        (
            event(
                "insert",
                "select owner_id as user_id from new where exists (select from public.parking_slot s where lower(s.label) = lower(new.name))",
            ),
            format!("each statement reads {slots} (lower(label));"),
        ),
        (
            event(
                "insert or update",
                "select owner_id as user_id from changed c join public.parking_slot s on s.label = c.name or s.id = c.id",
            ),
            format!("each statement reads {slots} (label);"),
        ),
        // A constant is worth an index when there is nothing better.
        (
            event("insert", "select owner_id as user_id from new, public.parking_slot s where s.label = 'vip'"),
            format!("each statement reads {slots} (label);"),
        ),
        // The partitions of a table are one; a cast and quotes are seen through.
        (
            event(
                "update",
                "select v.\"Who\" as user_id from changed c join public.visit v on v.code = c.name and v.\"Who\" = c.owner_id",
            ),
            format!("each statement reads {visits} (code, \"Who\");"),
        ),
        (
            "notifier.define_timer('a.b', 'public.booking', 'end_time', 'info', 'x',
               'select user_id from due join public.parking_slot s on s.label = due.status')"
                .to_owned(),
            format!("each firing reads {slots} (label);"),
        ),
    ] {
        assert_eq!(warnings(&database, &definition).await, [says.as_str()], "{definition}");
        // Defined again it says so again, and with the index it named it has no reason to.
        assert_eq!(warnings(&database, &definition).await, [says.as_str()], "{definition}");
        let index = says
            .split_once("): ")
            .unwrap()
            .1
            .replace("create index", "create index an_answer")
            .replace("an_answer concurrently", "concurrently an_answer");
        for line in index.split_inclusive(';') {
            database.run(line).await;
        }
        database.run("analyze public.parking_slot, public.visit").await;
        assert_eq!(warnings(&database, &definition).await, [""; 0], "{definition}");
        assert_eq!(database.one::<i64>("select count(*) from notifier.definition d, notifier.scans(d)").await, 0);
        database.run("drop index public.an_answer").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_no_index_helps_is_told_so() {
    let database = with_large_tables().await;
    let event = |query: &str| {
        format!("notifier.define_event('a.b', 'public.parking_lot', 'insert', 'info', 'x', $$ {query} $$)")
    };
    // Every row of it.
    assert_eq!(
        warnings(
            &database,
            &event("select owner_id as user_id, (select count(*) from public.parking_slot) as n from new")
        )
        .await,
        [
            "each statement reads all of public.parking_slot (3.4 MB): nothing in the query says with = which of its rows are meant; \
          join it to what changed"
        ]
    );
    // Nearly every row of it, with an index or without.
    database
        .run(
            "create table public.ticket (id int, kind text, body text);
             insert into public.ticket select g, 'usual', repeat('x', 30) from generate_series(1, 40000) g;
             create index on public.ticket (kind);
             analyze public.ticket",
        )
        .await;
    assert_eq!(
        warnings(
            &database,
            &event("select owner_id as user_id, t.id from new join public.ticket t on t.kind = new.name")
        )
        .await,
        [
            "each statement reads all of public.ticket (2.9 MB): its index on (kind) does not help, since too many of its rows have \
          the same value"
        ]
    );
    // Small tables are read as a whole by everybody.
    assert_eq!(
        warnings(&database, &event("select u.id as user_id from new join public.app_user u on u.name = new.name"))
            .await,
        [""; 0]
    );
    // And a table that went away is not this function's to tell of.
    database.run("drop table public.app_user cascade").await;
    assert_eq!(database.one::<i64>("select count(*) from notifier.definition d, notifier.scans(d)").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_does_not_read_what_changed_is_told_what_that_means() {
    let database = Database::new().await;
    let everybody = "select owner_id as user_id from public.parking_lot";
    for (operation, reads) in [
        ("insert", "`new`, `changed`"),
        ("update", "`new`, `old`, `changed`"),
        ("delete", "`old`"),
        ("insert or update", "`new`, `old`, `changed`"),
    ] {
        let definition =
            format!("notifier.define_event('a.b', 'public.booking', '{operation}', 'info', 'x', '{everybody}')");
        assert_eq!(
            warnings(&database, &definition).await,
            [format!("the query does not read {reads}: every statement tells all of its rows")]
        );
    }
    let timer = format!("notifier.define_timer('a.b', 'public.booking', 'end_time', 'info', 'x', '{everybody}')");
    assert_eq!(
        warnings(&database, &timer).await,
        ["the query does not read `due`: every firing tells all of its rows"]
    );
    // Whichever it reads, and however.
    for (operation, query) in [
        ("insert", "select user_id from new"),
        ("insert", "select user_id from changed"),
        ("update", "select owner_id as user_id from public.parking_lot where exists (select from old)"),
        ("update", "with c as (select * from changed) select user_id from c"),
        ("delete", "select user_id from old order by id"),
        ("insert or update", "select user_id from new union all select user_id from old"),
    ] {
        let definition =
            format!("notifier.define_event('a.b', 'public.booking', '{operation}', 'info', 'x', '{query}')");
        assert_eq!(warnings(&database, &definition).await, [""; 0], "{query}");
    }
    // None of the ten events has anything to be warned of.
    let warned: i64 =
        database.one("select count(*) from notifier.definition d, notifier.warnings(d) where d.name <> 'a.b'").await;
    assert_eq!(warned, 0);
}

/// Both would be taken, and tell nobody.
#[tokio::test(flavor = "multi_thread")]
async fn what_can_tell_nobody_is_told_so() {
    let database = Database::new().await;
    let timer = |until: &str| {
        format!(
            "notifier.define_timer('a.b', 'public.booking', 'end_time', 'info', 'x', 'select user_id from due', until => $${until}$$)"
        )
    };
    for until in ["end_time", "end_time - interval '10 minutes'"] {
        let said = warnings(&database, &timer(until)).await;
        assert!(said.len() == 1 && said[0].starts_with("`until` is not after `due`"), "{until}: {said:?}");
    }
    for until in ["end_time + interval '1 minute'", "end_time + interval '1 minute' * (1 / (id - 101))"] {
        assert_eq!(warnings(&database, &timer(until)).await, [""; 0], "{until}");
    }
    for (number, warned) in [("7::real", 1), ("7::double precision", 1), ("7::numeric", 0), ("7::bigint", 0)] {
        let event = format!(
            "notifier.define_event('a.c', 'public.booking', 'insert', 'info', 'x', 'select {number} as user_id from new')"
        );
        let said = warnings(&database, &event).await;
        assert!(said.len() == warned && said.iter().all(|line| line.contains("user_id::bigint")), "{number}: {said:?}");
    }
}

/// Postgres 18 computes columns when they are read; the rows that a trigger sees lack them, and all the rest is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_with_a_column_computed_when_read_is_told_without_it() {
    let database = Database::new().await;
    let virtually =
        database.one::<bool>("select current_setting('server_version_num')::int >= 180000").await.then_some("virtual");
    database
        .run(&format!(
            "create table public.computed (id int primary key, doubled int generated always as (amount * 2) {}, who text, amount int);
             grant all on public.computed to parking_app;
             select notifier.define_event('a.made', 'public.computed', 'insert', 'info', '{{amount}}', 'select new.*, who as user_id from new');
             select notifier.define_event('a.changed', 'public.computed', 'insert or update', 'info', '{{amount}}, was {{was_amount}}',
               'select who as user_id, amount, (was).amount as was_amount from changed where amount > 1');
             select notifier.define_event('a.gone', 'public.computed', 'delete', 'info', '{{amount}}', 'select who as user_id, amount from old');
             select notifier.define_event('a.both', 'public.computed', 'update', 'info', '{{amount}}',
               'select n.who as user_id, n.amount from new n join old o using (id) where o.amount < n.amount')",
            virtually.unwrap_or("stored")
        ))
        .await;
    database
        .write(
            "insert into computed (id, who, amount) values (1, '8', 3); update computed set amount = 4 where id = 1;
             delete from computed where id = 1",
        )
        .await;
    let told = database.rows("select event, message, data ? 'doubled' from notifier.notification order by id").await;
    let told: Vec<(&str, &str, bool)> = told.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    assert_eq!(
        told,
        [
            ("a.changed", "3, was ", false),
            ("a.made", "3", virtually.is_none()),
            ("a.both", "4", false),
            ("a.changed", "4, was 3", false),
            ("a.gone", "4", false),
        ]
    );
    assert_eq!(database.faults().await, 0);
}
