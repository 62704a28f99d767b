//! What an idle socket costs, beside a program that only holds connections; and what one costs that stops reading.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use crate::support::place::settle;
use crate::support::{Crowd, LIMIT, Place, Socket, Table, count, eventually, medians, metric, rounds, usage};

/// The argument that makes this program the floor.
pub const FLOOR: &str = "floor";

/// So many sockets are measured, in one process one after the other.
const LEVELS: [u64; 3] = [1_000, 5_000, 10_000];
/// So many clients stop reading, and each of their users is told so many notifications of so many bytes.
const STUCK: u64 = 100;
const TOLD: u64 = 500;
const BYTES: u64 = 1_000;

pub async fn run() {
    let place = Place::with(&["app"]).await;
    let mut measured = Vec::new();
    for _ in 0..rounds() {
        let (ours, floor) = (of_service(&place).await, of_floor().await);
        measured.push((ours, floor));
    }
    let table = Table::new(
        "`memory`: KiB of resident memory for each idle socket, open, greeted, told once and pinged",
        &["idle sockets", "KiB a socket", "floor: TcpStream alone", "ratio"],
    );
    let (ours, floor): (Vec<_>, Vec<_>) = measured.into_iter().unzip();
    for (at, sockets) in LEVELS.map(count).into_iter().enumerate() {
        let [ours, floor] = [medians(&ours)[at], medians(&floor)[at]];
        table.row(&[sockets.to_string(), format!("{ours:.2}"), format!("{floor:.2}"), format!("{:.2}", ours / floor)]);
    }

    let table = Table::new(
        &format!(
            "`memory`: {STUCK} sockets whose clients stop reading, while each of their users is told {} notifications of {BYTES} \
             bytes",
            count(TOLD)
        ),
        &["stuck sockets", "service, KiB each", "kernel, KiB each", "closed with 4510", "after seconds"],
    );
    let [service, kernel, closed, after] = stuck(&place).await;
    table.row(&[
        STUCK.to_string(),
        format!("{service:.0}"),
        format!("{kernel:.0}"),
        format!("{closed:.0}"),
        format!("{after:.1}"),
    ]);
}

/// KiB a socket at each level.
async fn of_service(place: &Place) -> [f64; LEVELS.len()] {
    let service = place.serve("app").await;
    let owner = place.owner("app").await;
    // What it needs once to read so much is no socket's.
    let most = count(LEVELS[LEVELS.len() - 1]);
    let sql = format!("insert into public.told (user_id, number) select generate_series(1000001, 1000000 + {most}), 1");
    owner.batch_execute(&sql).await.unwrap();
    place.all_rows("app").await;
    settle(&service).await;
    let pid = service.child.id().unwrap();
    let before = usage::memory(pid);
    let mut crowds = Vec::new();
    let mut figures = [0.0; LEVELS.len()];
    let mut open = 0;
    for (figure, level) in figures.iter_mut().zip(LEVELS.map(count)) {
        let crowd = Crowd::open(service.address, 1 + open..1 + level).await;
        crowd.expect(level - open);
        let confirmed = metric(service.address, "notifier_confirmed_total").await + level - open;
        let sql = format!("insert into public.told (user_id, number) select generate_series({}, {level}), 1", 1 + open);
        owner.batch_execute(&sql).await.unwrap();
        crowd.reached().await;
        eventually("all are confirmed", || async {
            metric(service.address, "notifier_confirmed_total").await >= confirmed
        })
        .await;
        settle(&service).await;
        *figure = (usage::memory(pid) - before) / level as f64;
        crowds.push(crowd);
        open = level;
    }
    for mut crowd in crowds {
        assert!(crowd.is_whole(), "sockets were closed");
        crowd.close().await;
    }
    figures
}

/// KiB a connection at each level.
async fn of_floor() -> [f64; LEVELS.len()] {
    let (mut child, address) = start_the_floor();
    let before = usage::memory(child.id());
    let mut streams = Vec::new();
    let mut figures = [0.0; LEVELS.len()];
    for (figure, level) in figures.iter_mut().zip(LEVELS.map(count)) {
        while (streams.len() as u64) < level {
            let mut stream = TcpStream::connect(address).await.unwrap();
            // It says hello as well, or some might still wait to be accepted.
            stream.read_u8().await.unwrap();
            streams.push(stream);
        }
        *figure = (usage::memory(child.id()) - before) / level as f64;
    }
    drop(child.stdin.take());
    child.wait().unwrap();
    figures
}

fn start_the_floor() -> (Child, SocketAddr) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let mut child = command.arg(FLOOR).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (child, line.trim().parse().unwrap())
}

/// Holds connections, a task each, until its standard input closes.
pub async fn be_the_floor() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    let (end, mut ended) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_line(&mut String::new());
        let _ = end.send(());
    });
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.unwrap();
                tokio::spawn(hold(stream));
            }
            _ = &mut ended => return,
        }
    }
}

async fn hold(stream: TcpStream) {
    let _ = stream.try_write(b"!");
    loop {
        if stream.readable().await.is_err() || matches!(stream.try_read(&mut [0; 512]), Ok(0)) {
            return;
        }
    }
}

/// KiB of the service and of the kernel for each socket whose client stops reading; how many were closed for it, after how many
/// seconds.
async fn stuck(place: &Place) -> [f64; 4] {
    let service = place.serve("app").await;
    // What it needs once for so many notifications is no socket's.
    let users = 1_000_001..1_000_001 + STUCK;
    let owner = place.owner("app").await;
    let tell = format!(
        "insert into public.told (user_id, number, filler) select {} + number % {STUCK}, number, repeat('x', {BYTES})
         from generate_series(1, {}) number",
        users.start,
        count(TOLD) * STUCK
    );
    owner.batch_execute(&tell).await.unwrap();
    place.all_rows("app").await;
    owner.batch_execute("update notifier.notification set read_at = now() where read_at is null").await.unwrap();
    settle(&service).await;

    let mut sockets = Vec::new();
    for user in users {
        let mut socket = Socket::open(service.address, user, None).await.unwrap();
        let mut greeted = false;
        while !greeted {
            socket.read(|_| greeted = true).await.unwrap();
        }
        sockets.push(socket);
    }
    settle(&service).await;
    let pid = service.child.id().unwrap();
    let before = usage::memory(pid);
    owner.batch_execute(&tell).await.unwrap();
    let told = Instant::now();
    let (mut service_peak, mut kernel_peak) = (before, 0.0_f64);
    let closed = || metric(service.address, "notifier_closes_total{code=\"4510\"}");
    while closed().await < STUCK && told.elapsed() < LIMIT {
        service_peak = service_peak.max(usage::memory(pid));
        kernel_peak = kernel_peak.max(kernel_memory(service.address.port()));
        sleep(Duration::from_millis(200)).await;
    }
    let after = told.elapsed().as_secs_f64();
    [(service_peak - before) / STUCK as f64, kernel_peak / STUCK as f64, closed().await as f64, after]
}

/// KiB that the kernel holds for what a port's connections have to send.
fn kernel_memory(port: u16) -> f64 {
    let filter = format!("sport = :{port}");
    let output = Command::new("ss")
        .args(["--tcp", "--numeric", "--memory", "--no-header", "state", "established"])
        .arg(filter)
        .output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    // skmem:(r0,rb131072,t0,tb87040,f4096,w12288,...): `w` is what is queued to be sent, with what holds it.
    let queued = text
        .split("skmem:(")
        .skip(1)
        .filter_map(|fields| fields.split(',').find_map(|field| field.strip_prefix('w')?.parse::<f64>().ok()));
    queued.sum::<f64>() / 1024.0
}
