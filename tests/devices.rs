//! Plain clients are told by device: what one has confirmed another still gets, and no device gets anything twice.

use crate::support::{Database, Service, Socket, eventually};

/// Waits until all that was sent to the device so far is noted for it.
async fn remembered(database: &Database, cookie: &str, told: i64) {
    let device = cookie.split('=').nth(1).unwrap();
    let sql = format!(
        "select count(*) from notifier.notification n join notifier.device d on d.user_id = n.user_id
         where d.device = '{device}' and (pg_visible_in_snapshot(n.xid, d.position) or n.id = any (d.told))"
    );
    eventually("the device's row is up to date", async || database.one::<i64>(&sql).await == told).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_device_does_not_confirm_for_another() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let (mut phone, mut laptop) = (Socket::open(service.address, "8").await, Socket::open(service.address, "8").await);
    let (phone_cookie, laptop_cookie) = (phone.cookie(), laptop.cookie());
    assert_ne!(phone_cookie, laptop_cookie);
    let attributes = phone.answer.headers()["set-cookie"].to_str().unwrap().to_owned();
    assert!(attributes.contains("HttpOnly") && attributes.contains("SameSite=Lax"), "{attributes}");

    database.run("select notifier.send('8', 'info', 'both')").await;
    assert_eq!(phone.frame().await["message"], "both");
    assert_eq!(laptop.frame().await["message"], "both");
    // Both have to live on until it is noted.
    let noted = async {
        remembered(&database, &phone_cookie, 1).await;
        remembered(&database, &laptop_cookie, 1).await;
    };
    Socket::meanwhile_all([&mut laptop, &mut phone], noted).await;
    drop(phone);
    database.run("select notifier.send('8', 'info', 'in the tunnel')").await;
    assert_eq!(laptop.frame().await["message"], "in the tunnel");
    laptop.meanwhile(remembered(&database, &laptop_cookie, 2)).await;
    drop(laptop);

    let mut phone = Socket::open_device(service.address, "8", Some(&phone_cookie)).await;
    let frame = phone.frame().await;
    assert_eq!((frame["message"].as_str(), frame["replayed"].as_bool()), (Some("in the tunnel"), Some(true)));
    phone.nothing_but_a_marker(&database).await;
    assert_eq!(phone.cookie(), phone_cookie, "it stays the same device");
    let mut laptop = Socket::open_device(service.address, "8", Some(&laptop_cookie)).await;
    assert!(laptop.frame().await["message"].as_str().unwrap().starts_with("marker"));
    laptop.nothing_but_a_marker(&database).await;
}

/// There is nothing to say of it before: but when it comes back it is told what another device has confirmed meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_was_told_nothing_is_known_when_it_has_left() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let (mut phone, mut other) = (Socket::open(service.address, "8").await, Socket::open(service.address, "7").await);
    let cookie = phone.cookie();
    database.run("select notifier.send('7', 'info', 'to live on for two seconds')").await;
    other.frame().await;
    let other_cookie = other.cookie();
    Socket::meanwhile_all([&mut phone, &mut other], remembered(&database, &other_cookie, 1)).await;
    drop(phone);
    let known =
        format!("select exists (select from notifier.device where device = '{}')", cookie.split('=').nth(1).unwrap());
    eventually("it is known", async || database.one::<bool>(&known).await).await;

    let mut laptop = Socket::open(service.address, "8").await;
    database.run("select notifier.send('8', 'info', 'in the tunnel')").await;
    assert_eq!(laptop.frame().await["message"], "in the tunnel");
    let laptop_cookie = laptop.cookie();
    laptop.meanwhile(remembered(&database, &laptop_cookie, 1)).await;
    let mut phone = Socket::open_device(service.address, "8", Some(&cookie)).await;
    assert_eq!(phone.frame().await["message"], "in the tunnel");
}

/// Without a cookie it is counted by user: what any device confirmed is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_device_nobody_knows_is_told_what_no_device_has_confirmed() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let mut laptop = Socket::open(service.address, "8").await;
    database.run("select notifier.send('8', 'info', 'confirmed')").await;
    assert_eq!(laptop.frame().await["message"], "confirmed");
    let cookie = laptop.cookie();
    laptop.meanwhile(remembered(&database, &cookie, 1)).await;
    drop(laptop);
    database.run("select notifier.send('8', 'info', 'missed')").await;
    for cookie in [None, Some("notifier_device=00000000000000000000000000000007"), Some("notifier_device=<script>")] {
        let mut stranger = Socket::open_device(service.address, "8", cookie).await;
        assert_eq!(stranger.frame().await["message"], "missed");
        assert_eq!(
            stranger.cookie() == cookie.unwrap_or_default(),
            cookie.is_some_and(|cookie| cookie.ends_with("007"))
        );
    }
    // A cookie of another user's device is nobody's.
    let mut other = Socket::open_device(service.address, "7", Some(&cookie)).await;
    other.nothing_but_a_marker(&database).await;
}

/// A transaction with several rows of which the connection took only some: the others come, and those do not come again.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_device_had_of_a_transaction_does_not_come_again() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let mut phone = Socket::open(service.address, "8").await;
    let cookie = phone.cookie();
    let early = database.another_app().await;
    early
        .batch_execute("begin; insert into payment (booking_id, user_id, amount, status, is_renewal) values (104, 8, 1, 'success', true)")
        .await
        .unwrap();
    database.run("select notifier.send('8', 'info', 'late id, early commit')").await;
    assert_eq!(phone.frame().await["message"], "late id, early commit");
    phone.meanwhile(remembered(&database, &cookie, 1)).await;
    drop(phone);
    early.batch_execute("commit").await.unwrap();
    let mut phone = Socket::open_device(service.address, "8", Some(&cookie)).await;
    let frame = phone.frame().await;
    assert_eq!((frame["event"].as_str(), frame["replayed"].as_bool()), (Some("booking.renewed"), Some(true)));
    phone.nothing_but_a_marker(&database).await;
}

/// What was told as a number is closed for this device, and nothing older comes back with the next connection.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_device_was_told_as_a_number_is_not_told_again() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let mut phone = Socket::open(service.address, "8").await;
    let cookie = phone.cookie();
    database.run("select notifier.send('8', 'info', 'n 0')").await;
    assert_eq!(phone.frame().await["message"], "n 0");
    phone.meanwhile(remembered(&database, &cookie, 1)).await;
    drop(phone);
    database.run("select notifier.send('8', 'info', 'n ' || n) from generate_series(1, 30) n").await;
    // Another device confirms them all for the user.
    database.run("update notifier.notification set delivered_at = now()").await;
    let mut phone = Socket::open_device(service.address, "8", Some(&cookie)).await;
    for n in 11..=30 {
        assert_eq!(phone.frame().await["message"], format!("n {n}"));
    }
    assert_eq!(phone.frame().await["more"], 10);
    phone.meanwhile(remembered(&database, &cookie, 31)).await;
    drop(phone);
    let mut phone = Socket::open_device(service.address, "8", Some(&cookie)).await;
    phone.nothing_but_a_marker(&database).await;
}

/// What a device had holds through a restart of the database, as far as it surely does.
#[tokio::test(flavor = "multi_thread")]
async fn another_epoch_leaves_a_device_what_it_had() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let mut phone = Socket::open(service.address, "8").await;
    let cookie = phone.cookie();
    database.run("select notifier.send('8', 'info', 'had')").await;
    assert_eq!(phone.frame().await["message"], "had");
    phone.meanwhile(remembered(&database, &cookie, 1)).await;
    // Until the position that surely holds sees it as well.
    let noted = "select pg_visible_in_snapshot(n.xid, p.position) from notifier.notification n, notifier.progress p";
    phone.meanwhile(eventually("it is durable", async || database.one::<bool>(noted).await)).await;
    drop(phone);
    database.run("select notifier.new_epoch()").await;
    database
        .run("select notifier.send('8', 'info', 'missed'); update notifier.notification set delivered_at = now()")
        .await;
    let mut phone = Socket::open_device(service.address, "8", Some(&cookie)).await;
    assert_eq!(phone.frame().await["message"], "missed");
    phone.nothing_but_a_marker(&database).await;
}

/// A client that keeps no cookie is another device each time: of a user's the last 50 are kept.
#[tokio::test(flavor = "multi_thread")]
async fn devices_that_never_come_back_do_not_pile_up() {
    let database = Database::new().await;
    let remember = |user: &str, from: i32, to: i32| {
        format!(
            "select notifier.remember(array_agg('{user}'::text), array_agg(n::text), array_agg(e.token), array_agg('9:9:'::text), array_agg('{{}}'::text))
             from generate_series({from}, {to}) n, notifier.epoch e where e.number = (select max(number) from notifier.epoch)"
        )
    };
    database.run("select * from notifier.identify('')").await;
    for (user, from, to) in [("8", 1, 40), ("7", 1, 3), ("8", 41, 80), ("8", 81, 81)] {
        database.run(&remember(user, from, to)).await;
    }
    let kept = "select count(*) from notifier.device where user_id = ";
    assert_eq!(database.one::<i64>(&format!("{kept}'8'")).await, 50);
    assert_eq!(database.one::<i64>(&format!("{kept}'8' and device = '81'")).await, 1, "the newest stay");
    assert_eq!(database.one::<i64>(&format!("{kept}'7'")).await, 3);
}
