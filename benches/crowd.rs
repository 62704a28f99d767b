//! Crowds: one user with very many sockets, one statement that tells very many users, and everybody coming back at once.

use std::time::{Duration, Instant};

use crate::support::place::{self, settle};
use crate::support::process::Process;
use crate::support::{Crowd, Place, Table, count, is_quick, medians, rounds, usage};

/// Sockets of one user, and how many events it is told.
const DEVICES: u64 = 1_000;
const EVENTS: u64 = 300;
/// Users told by one statement; those with a socket are spread among them.
const TOLD: u64 = 100_000;
const WITH_SOCKET: u64 = 1_000;
/// Who comes back at once, and how many notifications each has missed.
const BACK: u64 = 10_000;
const MISSED: u64 = 100;
/// What each is sent then: the hello, the newest 20, and how many more there are.
const FRAMES: u64 = 22;

pub async fn run() {
    let place = Place::with(&["app"]).await;
    let table = Table::new("`crowd`", &["what", "s", "frames", "frames/s", "service CPU s"]);
    let row = |what: String, frames: u64, figures: Vec<[f64; 2]>| {
        let [seconds, cpu] = medians(&figures);
        let rate = frames as f64 / seconds;
        table.row(&[what, format!("{seconds:.3}"), frames.to_string(), format!("{rate:.0}"), format!("{cpu:.2}")]);
    };

    let service = place.serve("app").await;
    let (devices, events) = (count(DEVICES), count(EVENTS));
    let mut figures = Vec::new();
    let crowd = Crowd::open(service.address, vec![1; devices as usize].into_iter()).await;
    for _ in 0..rounds() {
        figures.push(one_user(&place, &service, &crowd, devices, events).await);
    }
    whole(crowd, &service).await;
    row(
        format!("one user, {devices} sockets, {events} events of a commit each: first commit to last frame"),
        devices * events,
        figures,
    );

    let (told, sockets) = (count(TOLD), count(WITH_SOCKET));
    let mut figures = Vec::new();
    let crowd = Crowd::open(
        service.address,
        (0..WITH_SOCKET).map(|user| 1 + user * (TOLD / WITH_SOCKET)).take(sockets as usize),
    )
    .await;
    for _ in 0..rounds() {
        figures.push(one_statement(&place, &service, &crowd, told, sockets).await);
    }
    whole(crowd, &service).await;
    row(format!("one statement tells {told} users, {sockets} have a socket: commit to last frame"), sockets, figures);

    let (back, missed) = (count(BACK), if is_quick() { 30 } else { MISSED });
    let crowd = Crowd::open(service.address, 1..1 + back).await;
    let mut devices = crowd.devices.clone();
    whole(crowd, &service).await;
    let mut figures = Vec::new();
    for _ in 0..rounds() {
        figures.push(everybody(&place, &service, &mut devices, missed).await);
    }
    row(
        format!("{back} devices come back at once, {missed} missed each: first connect to last frame"),
        back * FRAMES,
        figures,
    );
}

/// Seconds from the first commit's beginning to the last frame, and the service's CPU seconds.
async fn one_user(place: &Place, service: &Process, crowd: &Crowd, devices: u64, events: u64) -> [f64; 2] {
    let owner = place.owner("app").await;
    let insert = owner.prepare("insert into public.told (user_id, number) values (1, $1)").await.unwrap();
    crowd.expect(devices * events);
    let (cpu, started) = (cpu(service), Instant::now());
    for number in 0..events as i64 {
        owner.execute(&insert, &[&number]).await.unwrap();
    }
    rest(crowd, service, cpu, started).await
}

/// Seconds from the commit's acknowledgement to the last frame, and the service's CPU seconds.
async fn one_statement(place: &Place, service: &Process, crowd: &Crowd, told: u64, sockets: u64) -> [f64; 2] {
    let owner = place.owner("app").await;
    let step = TOLD / WITH_SOCKET;
    crowd.expect(sockets.min(told.div_ceil(step)));
    let cpu = cpu(service);
    let sql = format!("insert into public.told (user_id, number) select generate_series(1, {told}), 1");
    owner.batch_execute(&sql).await.unwrap();
    let committed = Instant::now();
    rest(crowd, service, cpu, committed).await
}

/// Seconds from the first connect to the last frame, and the service's CPU seconds.
async fn everybody(place: &Place, service: &Process, devices: &mut Vec<String>, missed: u64) -> [f64; 2] {
    let owner = place.owner("app").await;
    let users = devices.len();
    for number in 0..missed {
        let sql = format!("insert into public.told (user_id, number) select generate_series(1, {users}), {number}");
        owner.batch_execute(&sql).await.unwrap();
        if number % 20 == 19 || number + 1 == missed {
            place.all_rows("app").await;
        }
    }
    settle(service).await;
    let back = (1..).zip(devices.iter().cloned().map(Some)).collect();
    let (cpu, started) = (cpu(service), Instant::now());
    let (crowd, last) = Crowd::start(service.address, back, users, FRAMES).await;
    let seconds = (last - started).as_secs_f64();
    devices.clone_from(&crowd.devices);
    confirmed(service).await;
    let used = usage::cpu(service.child.id().unwrap()) - cpu;
    whole(crowd, service).await;
    [seconds, used]
}

async fn rest(crowd: &Crowd, service: &Process, cpu_before: f64, since: Instant) -> [f64; 2] {
    let seconds = crowd.reached().await.saturating_duration_since(since).as_secs_f64();
    confirmed(service).await;
    [seconds, cpu(service) - cpu_before]
}

fn cpu(service: &Process) -> f64 {
    usage::cpu(service.child.id().unwrap())
}

/// Confirmations are written about two seconds after their frames.
async fn confirmed(service: &Process) {
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    settle(service).await;
}

async fn whole(mut crowd: Crowd, service: &Process) {
    assert!(crowd.is_whole(), "sockets were closed");
    place::close(crowd, service).await;
}
