//! Each of the ten events, from a write of the application to frames: the right user, the right level, once; nobody else; not
//! on rollback; not on a second save.

use futures_util::future::join_all;

use crate::support::{Database, Service, Socket, eventually};

const EVERYBODY: [&str; 4] = ["3", "4", "7", "8"];

/// An event and what the application does to bring it about.
struct Case {
    event: &'static str,
    write: &'static str,
    /// The same state saved once more.
    save_again: &'static str,
    user: &'static str,
    level: &'static str,
    /// How the message begins.
    message: &'static str,
    /// What else the write rightly tells: (user, event).
    besides: &'static [(&'static str, &'static str)],
}

/// Runs a case: rolled back first, then committed, then saved again.
async fn run(case: Case) {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let mut sockets = Vec::new();
    for user in EVERYBODY {
        sockets.push(Socket::open(service.address, user).await);
    }

    database.write(&format!("begin; {}; rollback", case.write)).await;
    join_all(sockets.iter_mut().map(|socket| socket.nothing_but_a_marker(&database))).await;

    database.write(case.write).await;
    let told = async |socket: &mut Socket| {
        let mut expected: Vec<_> =
            case.besides.iter().filter(|(user, _)| *user == socket.user).map(|(_, event)| *event).collect();
        if socket.user == case.user {
            expected.push(case.event);
        }
        while !expected.is_empty() {
            let frame = socket.frame().await;
            let event = frame["event"].as_str().unwrap();
            let index = expected.iter().position(|expected| *expected == event);
            expected.remove(index.unwrap_or_else(|| panic!("user {} was told {frame}", socket.user)));
            if event == case.event {
                assert_eq!(frame["type"], case.level);
                assert!(frame["message"].as_str().unwrap().starts_with(case.message), "{frame}");
                assert_eq!(frame["replayed"], false);
                assert!(
                    frame["id"].is_string()
                        && frame["data"].is_object()
                        && frame["created_at"].as_str().unwrap().ends_with('Z')
                );
                assert_eq!(frame.as_object().unwrap().len(), 7, "no more keys than the contract has: {frame}");
            }
        }
        socket.nothing_but_a_marker(&database).await;
    };
    join_all(sockets.iter_mut().map(told)).await;

    database.write(case.save_again).await;
    // A timer that was armed again has been looked at when it is not due any more.
    let looked_at = eventually("no timer is due", || async {
        database.one::<i64>("select count(*) from notifier.timer where due_at <= now() and barrier is null").await == 0
    });
    Socket::meanwhile_all(&mut sockets, looked_at).await;
    join_all(sockets.iter_mut().map(|socket| socket.nothing_but_a_marker(&database))).await;
    let told = format!("select count(*) from notifier.notification where event = '{}'", case.event);
    assert_eq!(database.one::<i64>(&told).await, 1);
    assert_eq!(database.faults().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn booking_expiring_is_told_five_minutes_before_the_end() {
    run(Case {
        event: "booking.expiring",
        write: "insert into booking (id, user_id, slot_id, end_time) overriding system value values (900, 8, 11, now() + interval '5 minutes')",
        save_again: "update booking set status = 'Booked' where id = 900",
        user: "8",
        level: "warning",
        message: "Your booking #900 ends at ",
        besides: &[("3", "booking.created")],
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn booking_expired_is_told_at_the_end() {
    run(Case {
        event: "booking.expired",
        write: "insert into booking (id, user_id, slot_id, end_time) overriding system value values (900, 8, 11, now() - interval '1 second')",
        save_again: "update booking set status = 'Booked' where id = 900",
        user: "8",
        level: "info",
        message: "Your booking #900 has ended.",
        besides: &[("3", "booking.created")],
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_that_becomes_paid_is_told_to_the_payer() {
    run(Case {
        event: "booking.renewed",
        write: "update payment set status = 'Success' where id = 202",
        save_again: "update payment set status = 'SUCCESS', amount = 7 where id = 202",
        user: "7",
        level: "success",
        message: "Booking #101 is renewed.",
        besides: &[],
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_that_arrives_paid_is_told_to_the_payer() {
    run(Case {
        event: "booking.renewed",
        write: "insert into payment (id, booking_id, user_id, amount, status, is_renewal) overriding system value values (900, 104, 8, 5, 'success', true)",
        save_again: "update payment set status = 'success' where id = 900",
        user: "8",
        level: "success",
        message: "Booking #104 is renewed.",
        besides: &[],
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_that_becomes_failed_is_told_to_the_payer() {
    run(Case {
        event: "booking.renewal_failed",
        write: "update payment set status = 'failed' where id = 203",
        save_again: "update payment set status = 'FAILED' where id = 203",
        user: "7",
        level: "error",
        message: "The renewal of booking #103 failed. Please pay again.",
        besides: &[],
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_that_arrives_failed_is_told_to_the_payer() {
    run(Case {
        event: "booking.renewal_failed",
        write: "insert into payment (id, booking_id, user_id, amount, status, is_renewal) overriding system value values (900, 104, 8, 5, 'failed', true)",
        save_again: "update payment set status = 'failed' where id = 900",
        user: "8",
        level: "error",
        message: "The renewal of booking #104 failed.",
        besides: &[],
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_booking_completed_after_its_end_is_told_to_its_user() {
    run(Case {
        event: "booking.completed",
        write: "update booking set status = 'completed' where id = 102",
        save_again: "update booking set status = 'Completed' where id = 102",
        user: "7",
        level: "warning",
        message: "Booking #102 was completed after its end at ",
        besides: &[],
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_booking_declined_by_the_admin_is_told_to_its_user() {
    run(Case {
        event: "booking.declined",
        write: "update booking set status = 'cancelled_by_admin' where id = 104",
        save_again: "update booking set status = 'CANCELLED_BY_ADMIN' where id = 104",
        user: "8",
        level: "warning",
        message: "Booking #104 was declined by the admin.",
        besides: &[],
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cash_that_was_counted_is_told_to_the_payer() {
    run(Case {
        event: "payment.verified",
        write: "update payment set status = 'verified' where id = 204",
        save_again: "update payment set status = 'Verified' where id = 204",
        user: "8",
        level: "success",
        message: "Cash payment verified.",
        besides: &[],
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_booking_is_told_to_the_owner_of_the_lot() {
    run(Case {
        event: "booking.created",
        write: "insert into booking (id, user_id, slot_id, end_time) overriding system value values (900, 7, 21, now() + interval '2 days')",
        save_again: "update booking set status = 'booked' where id = 900",
        user: "4",
        level: "info",
        message: "New booking #900 of slot B1 at Station Yard.",
        besides: &[],
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completed_car_wash_is_told_to_the_user_of_its_booking() {
    run(Case {
        event: "carwash.completed",
        write: "update carwash set status = 'completed' where id = 301",
        save_again: "update carwash set status = 'COMPLETED' where id = 301",
        user: "7",
        level: "success",
        message: "Your car wash (inside and out) is completed.",
        besides: &[],
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_assigned_employee_is_told_to_the_owner_of_the_lot() {
    run(Case {
        event: "employee.assigned",
        write: "insert into employee_assignment (employee_id, lot_id) values (402, 2)",
        save_again: "update employee_assignment set lot_id = 2",
        user: "4",
        level: "info",
        message: "Edda was assigned to Station Yard.",
        besides: &[],
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_transition_of_an_event_tells_nobody() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let mut sockets = Vec::new();
    for user in EVERYBODY {
        sockets.push(Socket::open(service.address, user).await);
    }
    for write in [
        "update payment set status = 'success' where id = 201", // no renewal
        "update payment set status = 'verified' where id = 202", // no cash
        "update booking set status = 'completed' where id = 101", // not after its end
        "update booking set status = 'cancelled' where id = 104",
        "update carwash set status = 'in_progress'",
        "delete from payment where id = 204",
        "set notifier.mute = on; update payment set status = 'verified' where id = 201; reset notifier.mute",
    ] {
        database.write(write).await;
    }
    for socket in &mut sockets {
        socket.nothing_but_a_marker(&database).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_writer_is_seen_and_several_events_of_one_statement_reach_several_users() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let (mut dora, mut david) = (Socket::open(service.address, "7").await, Socket::open(service.address, "8").await);
    database.write("update payment set status = 'verified' where method = 'cash'").await;
    assert_eq!(dora.frame().await["data"]["payment_id"], 201);
    assert_eq!(david.frame().await["data"]["payment_id"], 204);

    // As the superuser, through COPY.
    let copy = database.superuser().await;
    let sink = copy
        .copy_in::<_, bytes::Bytes>("copy public.payment (booking_id, user_id, amount, status, is_renewal) from stdin")
        .await
        .unwrap();
    let mut sink = std::pin::pin!(sink);
    futures_util::SinkExt::send(&mut sink, bytes::Bytes::from_static(b"104\t8\t5\tsuccess\tt\n")).await.unwrap();
    sink.finish().await.unwrap();
    assert_eq!(david.frame().await["event"], "booking.renewed");
}
