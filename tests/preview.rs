//! `notifier.preview_event`: who would be told what, and nothing is written.

use crate::support::Database;

/// All columns of a preview, as text.
async fn preview(database: &Database, arguments: &str) -> Vec<String> {
    let sql =
        format!("select concat_ws(' | ', user_id, level, message, data) from notifier.preview_event({arguments})");
    database.rows(&sql).await.iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_runs_the_very_query_on_rows_that_are_there() {
    let database = Database::new().await;
    let declined = "'booking.declined', rows => 'id = 104', old => '{\"status\": \"booked\"}'";
    assert_eq!(preview(&database, declined).await, [""; 0], "it is not declined");
    database
        .run("set notifier.mute = on; update public.booking set status = 'cancelled_by_admin' where id in (103, 104)")
        .await;
    assert_eq!(
        preview(&database, declined).await,
        [r#"8 | warning | Booking #104 was declined by the admin. | {"booking_id": 104}"#]
    );
    assert_eq!(preview(&database, "'booking.declined', rows => 'id = 104'").await, [""; 0], "nothing changes");
    assert_eq!(
        preview(&database, "'booking.declined', old => '{\"status\": null}'").await.len(),
        2,
        "all rows, if they had had no status"
    );
    // What would be after, of rows that nobody has changed.
    let would = "'booking.declined', rows => 'id = 101', new => '{\"status\": \"cancelled_by_admin\"}'";
    assert_eq!(
        preview(&database, would).await,
        [r#"7 | warning | Booking #101 was declined by the admin. | {"booking_id": 101}"#]
    );
    let moved = "select due_at = '2100-01-01' from notifier.preview_event('booking.expired', 'id = 101', new => '{\"end_time\": \"2100-01-01\"}')";
    assert!(database.one::<bool>(moved).await);
    // An insert, with its joins; and an event that is both, as what `old` says.
    assert_eq!(
        preview(&database, "'booking.created', rows => 'id = 104'").await,
        [
            r#"4 | info | New booking #104 of slot B1 at Station Yard. | {"lot": "Station Yard", "slot": "B1", "booking_id": 104}"#
        ]
    );
    database.run("update public.payment set status = 'success', is_renewal = true where id = 202").await;
    for old in ["", ", old => '{\"status\": \"pending\"}'"] {
        assert_eq!(preview(&database, &format!("'booking.renewed', rows => 'id = 202'{old}")).await.len(), 1, "{old}");
    }
    assert_eq!(preview(&database, "'booking.renewed', rows => 'id = 202', old => '{}'").await, [""; 0]);

    // A timer, with when it would be.
    let timer = database
        .rows("select message, due_at = b.end_time - interval '5 minutes' from notifier.preview_event('booking.expiring', 'id = 101') p,
               public.booking b where b.id = 101")
        .await;
    assert_eq!(timer.len(), 1);
    assert!(timer[0].get::<_, bool>(1));

    // A delete, and whatever a query does is undone.
    database
        .run("create table public.trace (id int);
              create function public.traced(bigint) returns text language plpgsql as $$ begin insert into public.trace values (1); return $1; end $$;
              create function public.hidden(bigint) returns text language sql stable as 'select public.traced($1)';
              select notifier.define_event('payment.gone', 'public.payment', 'delete', 'info', 'Gone: {id}', 'select public.hidden(user_id) as user_id, id from old');
              reset notifier.mute")
        .await;
    assert_eq!(preview(&database, "'payment.gone', 'id = 201'").await, [r#"7 | info | Gone: 201 | {"id": 201}"#]);
    for empty in ["public.trace", "notifier.notification", "notifier.fault_record"] {
        assert_eq!(database.one::<i64>(&format!("select count(*) from {empty}")).await, 0, "{empty}");
    }
    assert_eq!(database.one::<i64>("select count(*) from public.payment").await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_that_cannot_be_says_why() {
    let database = Database::new().await;
    for (arguments, state, message, hint) in [
        ("'no.such'", "42704", "there is no event 'no.such'", ""),
        (
            "'booking.declined', rows => 'idd = 1'",
            "42601",
            "`rows` is no condition over public.booking: column \"idd\" does not exist",
            "Write what would stand after `where`: rows => 'id = 42'",
        ),
        (
            "'booking.declined', rows => 'true); drop table public.payment; select (1'",
            "42601",
            "`rows` is no condition over public.booking: syntax error at or near \";\"",
            "Write what would stand after `where`: rows => 'id = 42'",
        ),
        (
            "'booking.created', old => '{}'",
            "22023",
            "`old` is given, and an insert event like booking.created has no old row",
            "Leave it out.",
        ),
        (
            "'booking.expired', old => '{}'",
            "22023",
            "`old` is given, and a timer like booking.expired has no old row",
            "Leave it out.",
        ),
        (
            "'booking.declined', old => '[]'",
            "22023",
            "`old` is a JSON array",
            "Give an object of the columns that are different: {\"status\": \"booked\"}",
        ),
        (
            "'booking.declined', old => '{\"statos\": 1}'",
            "42703",
            "`old` names statos, which is no column of public.booking",
            "Perhaps you meant status. It has: id, user_id, slot_id, start_time, end_time, status, created_at.",
        ),
    ] {
        let sql = format!("select * from notifier.preview_event({arguments})");
        let error = database.owner.batch_execute(&sql).await.expect_err(&sql);
        let error = error.as_db_error().unwrap();
        assert_eq!((error.code().code(), error.message()), (state, message), "{sql}");
        assert!(hint.is_empty() || error.hint() == Some(hint), "{sql}: {:?}", error.hint());
    }
    assert_eq!(database.one::<i64>("select count(*) from public.payment").await, 4);
}
