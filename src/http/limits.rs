//! How many may be here: connections and sockets, in all, by address and by user, and how quickly new sockets may come.
//!
//! One structure, bounded whoever comes. An IPv6 address counts by its /64, which is what one customer is given, so that nobody has
//! more addresses than we can count. Counts are of what is open, so there are never more of them than connections. What is remembered
//! beyond that is how quickly an address opened sockets, for two seconds, of 65,536 addresses: of more all are forgotten
//! that have not had their two seconds, and may open sockets a little quicker than they should. Nobody is refused for it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::{debug, warn};
use warp::http::{HeaderMap, HeaderValue, StatusCode, header};
use warp::reply::Response;

use super::{Context, problem};
use crate::config::Limits;
use crate::metrics::Reason;
use crate::protocol::UserId;

/// An address may open so many seconds' worth of sockets at once, and the setting's number in each second after that.
const BURST: Duration = Duration::from_secs(2);
/// How many addresses are remembered that have no connection.
const MAX_REMEMBERED: usize = 65_536;
/// For each socket that an address may have it may have so many connections that are none (yet): requests, and handshakes.
const VISITS_PER_SOCKET: u32 = 4;
/// Files that are neither sockets nor connections of clients: the database's connections are counted in besides.
const SPARE_FILES: u64 = 64;

/// Who may come in. Cheap to clone.
#[derive(Clone)]
pub struct Admission(Arc<Shared>);

struct Shared {
    limits: Limits,
    /// Connections and sockets together.
    most: usize,
    open: Mutex<Open>,
}

/// What is open, and what is remembered of what was.
#[derive(Default)]
struct Open {
    visits: usize,
    seats: usize,
    addresses: HashMap<Network, Counts>,
    users: HashMap<UserId, u32>,
    /// When an address that opened sockets has its burst back.
    rested: HashMap<Network, Instant>,
}

#[derive(Default)]
struct Counts {
    visits: u32,
    seats: u32,
}

/// What counts as one address: an IPv4 address, or a /64 of IPv6, whose lower half is zero and so is no IPv4 address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Network(u128);

impl From<IpAddr> for Network {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
            IpAddr::V6(address) => address.to_bits() >> 64 << 64,
        })
    }
}

/// Which limit is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Full {
    /// Of the whole service.
    Total,
    /// Of the user.
    User,
    /// Of the client's address.
    Address,
    /// How quickly its address opens sockets.
    Rate,
    /// Of connections, of the address or in all.
    Connections,
}

impl Full {
    /// How it is counted.
    pub fn reason(self) -> Reason {
        match self {
            Self::Total => Reason::Total,
            Self::User => Reason::User,
            Self::Address => Reason::Address,
            Self::Rate => Reason::Rate,
            Self::Connections => Reason::Connections,
        }
    }

    /// What is said to the client: the status, after how many seconds it may come again, and why.
    fn answer(self) -> (StatusCode, u16, &'static str) {
        match self {
            Self::Total | Self::Connections => {
                (StatusCode::SERVICE_UNAVAILABLE, 5, "this service has as many sockets as it may have")
            }
            Self::User => (StatusCode::TOO_MANY_REQUESTS, 30, "this user has as many sockets as one may have"),
            Self::Address => (StatusCode::TOO_MANY_REQUESTS, 30, "your address has as many sockets as one may have"),
            Self::Rate => (
                StatusCode::TOO_MANY_REQUESTS,
                1,
                "your address opens sockets, or presents credentials that are worth nothing, too quickly",
            ),
        }
    }
}

/// A socket's place, given back when dropped.
pub struct Seat(Box<Seated>);

struct Seated {
    shared: Arc<Shared>,
    network: Network,
    user: Option<UserId>,
}

/// A connection's place while it is no socket, given back when dropped.
pub struct Visit {
    shared: Arc<Shared>,
    network: Option<Network>,
}

impl Admission {
    /// `files` is how many this process may have open, `others` how many of them it needs for the database. Sockets take what their
    /// limit says, and connections that are none a quarter of that besides; where the system does not allow as many, sockets and
    /// connections together have what it does.
    pub fn new(limits: Limits, files: u64, others: u64) -> Self {
        let most = limits.max_sockets.saturating_add(limits.max_sockets / 4).saturating_add(SPARE_FILES as usize);
        let left = usize::try_from(files.saturating_sub(others + SPARE_FILES)).unwrap_or(usize::MAX).max(1);
        if left < limits.max_sockets {
            warn!(
                "--max-sockets {} needs {} open files and the system allows {files}: raise the limit (LimitNOFILE= of a systemd unit, \
                 ulimits: nofile of a container, `ulimit -Hn` of a shell), or set --max-sockets {left}; what is beyond is refused",
                limits.max_sockets,
                limits.max_sockets as u64 + others + SPARE_FILES,
            );
        }
        let most = most.min(left);
        Self(Arc::new(Shared { limits, most, open: Mutex::default() }))
    }

    /// A connection has come; it counts until it ends or becomes a socket. `None` for a trusted proxy's, which brings everybody's.
    ///
    /// # Errors
    /// The address, or the service, has as many as it may have.
    pub fn visit(&self, address: Option<IpAddr>) -> Result<Visit, Full> {
        let shared = &self.0;
        let open = &mut *shared.lock();
        if open.visits + open.seats >= shared.most {
            return Err(Full::Connections);
        }
        let network = address.map(Network::from);
        if let Some(network) = network {
            open.greet(network, &shared.limits)?;
        }
        open.visits += 1;
        Ok(Visit { shared: shared.clone(), network })
    }

    /// A place for one more socket of a client's address; its user claims it later. To be asked before anything is looked at that
    /// costs more than this does: an attempt that comes to nothing counts for how quickly the address comes.
    ///
    /// # Errors
    /// The first limit that is reached.
    pub fn seat(&self, address: IpAddr) -> Result<Seat, Full> {
        self.seat_at(address, Instant::now())
    }

    fn seat_at(&self, address: IpAddr, now: Instant) -> Result<Seat, Full> {
        let (shared, network) = (&self.0, Network::from(address));
        let limits = &shared.limits;
        let open = &mut *shared.lock();
        open.knock(network, limits.max_new_sockets_per_address, now)?;
        if open.seats >= limits.max_sockets {
            return Err(Full::Total);
        }
        if open.addresses.get(&network).is_some_and(|counts| counts.seats >= limits.max_sockets_per_address) {
            return Err(Full::Address);
        }
        open.seats += 1;
        open.addresses.entry(network).or_default().seats += 1;
        Ok(Seat(Box::new(Seated { shared: shared.clone(), network, user: None })))
    }
}

impl Admission {
    /// Somebody at an address presents a credential without wanting a socket; counts like one that does.
    ///
    /// # Errors
    /// The address comes too quickly.
    pub fn knock(&self, address: IpAddr) -> Result<(), Full> {
        let shared = &self.0;
        shared.lock().knock(Network::from(address), shared.limits.max_new_sockets_per_address, Instant::now())
    }

    /// The credential was good: then it does not count.
    pub fn welcome(&self, address: IpAddr) {
        let shared = &self.0;
        let step = Duration::from_secs(1) / shared.limits.max_new_sockets_per_address;
        if let Some(rested) = shared.lock().rested.get_mut(&Network::from(address)) {
            *rested = rested.checked_sub(step).unwrap_or(*rested);
        }
    }
}

impl Seat {
    /// The socket is this user's from now on.
    ///
    /// # Errors
    /// The user has as many as it may have; the seat is what it was before.
    pub fn claim_user(&mut self, user: &UserId) -> Result<(), Full> {
        let Seated { shared, user: claimed, .. } = &mut *self.0;
        if claimed.as_ref() == Some(user) {
            return Ok(());
        }
        let open = &mut *shared.lock();
        open.seat_user(user, &shared.limits)?;
        if let Some(before) = claimed.replace(user.clone()) {
            open.unseat_user(&before);
        }
        Ok(())
    }
}

impl Visit {
    /// Whose connection it is has become known: a proxy said it.
    ///
    /// # Errors
    /// That address has as many as it may have.
    pub fn claim_address(&mut self, address: IpAddr) -> Result<(), Full> {
        let network = Network::from(address);
        let open = &mut *self.shared.lock();
        open.greet(network, &self.shared.limits)?;
        if let Some(before) = self.network.replace(network) {
            open.forget(before, |counts| counts.visits -= 1);
        }
        Ok(())
    }
}

impl Open {
    fn greet(&mut self, network: Network, limits: &Limits) -> Result<(), Full> {
        let most = limits.max_sockets_per_address.saturating_mul(VISITS_PER_SOCKET);
        if self.addresses.get(&network).is_some_and(|counts| counts.visits >= most) {
            return Err(Full::Connections);
        }
        self.addresses.entry(network).or_default().visits += 1;
        Ok(())
    }

    /// A bucket of `per_second` times [`BURST`] tokens, kept as the time at which it is full again.
    fn knock(&mut self, network: Network, per_second: u32, now: Instant) -> Result<(), Full> {
        let rested = self.rested.get(&network).copied().filter(|rested| *rested > now).unwrap_or(now);
        let after = rested + Duration::from_secs(1) / per_second;
        if after > now + BURST {
            return Err(Full::Rate);
        }
        self.rested.insert(network, after);
        if self.rested.len() > MAX_REMEMBERED {
            self.rested.retain(|_, rested| *rested > now);
            // Looking through all of them is not to be had for each newcomer.
            if self.rested.len() > MAX_REMEMBERED / 2 {
                self.rested.clear();
            }
        }
        Ok(())
    }

    fn seat_user(&mut self, user: &UserId, limits: &Limits) -> Result<(), Full> {
        match self.users.get_mut(user) {
            Some(seats) if *seats >= limits.max_sockets_per_user => return Err(Full::User),
            Some(seats) => *seats += 1,
            None => {
                self.users.insert(user.clone(), 1);
            }
        }
        Ok(())
    }

    fn unseat_user(&mut self, user: &UserId) {
        if let Some(seats) = self.users.get_mut(user) {
            *seats -= 1;
            if *seats == 0 {
                self.users.remove(user);
            }
        }
    }

    /// Takes one away of an address; one that has nothing left is not kept.
    fn forget(&mut self, network: Network, take: impl FnOnce(&mut Counts)) {
        if let Some(counts) = self.addresses.get_mut(&network) {
            take(counts);
            if counts.visits == 0 && counts.seats == 0 {
                self.addresses.remove(&network);
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Open> {
        // Whatever has panicked, what is in here are counts.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seated {
    fn drop(&mut self) {
        let open = &mut *self.shared.lock();
        open.seats -= 1;
        open.forget(self.network, |counts| counts.seats -= 1);
        if let Some(user) = &self.user {
            open.unseat_user(user);
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let open = &mut *self.shared.lock();
        open.visits -= 1;
        if let Some(network) = self.network {
            open.forget(network, |counts| counts.visits -= 1);
        }
    }
}

/// As many open files as the system allows this process; how many that are.
pub fn allow_many_files() -> u64 {
    rlimit::increase_nofile_limit(u64::MAX).unwrap_or_else(|error| {
        debug!(%error, "raising the limit of open files");
        rlimit::Resource::NOFILE.get_soft().unwrap_or(1024)
    })
}

/// Counts a handshake that is refused for a limit, and answers it.
pub(super) fn refuse(context: &Context, address: IpAddr, headers: &HeaderMap, full: Full) -> Response {
    context.session.metrics.refused(full.reason());
    debug!(%address, ?full, "handshake refused");
    let by_address = matches!(full, Full::Address | Full::Rate);
    if by_address && context.proxies.may_be_missing(address, headers) {
        warn!(
            %address,
            "clients are refused for the number of sockets of their address, which a proxy seems to share among them: \
             name it by --trusted-proxy, and say by --client-address how it tells theirs"
        );
    }
    answer(full)
}

/// What a client is told that is refused for a limit.
pub(super) fn answer(full: Full) -> Response {
    let (status, seconds, detail) = full.answer();
    let mut response = problem(status, detail);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    response
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    fn admission(set: impl FnOnce(&mut Limits)) -> Admission {
        let mut limits = Limits::new().unwrap();
        set(&mut limits);
        Admission::new(limits, u64::MAX, 0)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn user(text: &str) -> UserId {
        text.parse().unwrap()
    }

    #[test]
    fn each_limit_is_kept_and_what_ends_makes_room() {
        let admission = admission(|limits| {
            limits.max_sockets = 4;
            limits.max_sockets_per_address = 3;
            limits.max_sockets_per_user = 2;
        });
        let seat = |address: &str, name: &str| {
            let mut seat = admission.seat(ip(address))?;
            seat.claim_user(&user(name)).map(|()| seat)
        };
        let mut seats = vec![seat("10.0.0.1", "7").unwrap(), seat("10.0.0.1", "7").unwrap()];
        assert_eq!(seat("10.0.0.2", "7").err(), Some(Full::User));
        seats.push(seat("10.0.0.1", "8").unwrap());
        assert_eq!(seat("10.0.0.1", "9").err(), Some(Full::Address));
        seats.push(seat("10.0.0.2", "9").unwrap());
        assert_eq!(seat("10.0.0.3", "10").err(), Some(Full::Total));
        seats.remove(0);
        let mut late = admission.seat(ip("10.0.0.1")).unwrap();
        assert_eq!(late.claim_user(&user("7")), Ok(()));
        assert_eq!(late.claim_user(&user("7")), Ok(()), "it is its own already");
        assert_eq!(late.claim_user(&user("8")), Ok(()));
        assert_eq!(late.claim_user(&user("7")), Ok(()), "the seat it left is free");
        drop(seats.pop());
        let mut other = admission.seat(ip("10.0.0.2")).unwrap();
        assert_eq!(other.claim_user(&user("7")), Err(Full::User));
        drop((seats, late, other));
        let open = admission.0.lock();
        assert!(open.seats == 0 && open.addresses.is_empty() && open.users.is_empty(), "what is empty is not kept");
    }

    #[test]
    fn new_sockets_have_a_burst_of_twice_their_rate() {
        let admission = admission(|limits| limits.max_new_sockets_per_address = 20);
        let now = Instant::now();
        let open = |address: &str, at| {
            (0..100).take_while(|_| admission.seat_at(ip(address), now + Duration::from_millis(at)).is_ok()).count()
        };
        assert_eq!(open("10.0.0.1", 0), 40);
        assert_eq!(open("10.0.0.1", 49), 0);
        assert_eq!(open("10.0.0.1", 1_000), 20);
        assert_eq!(open("10.0.0.2", 1_000), 40, "another address");
        assert_eq!(open("10.0.0.1", 60_000), 40);
    }

    #[test]
    fn ipv6_counts_by_64_bits_and_a_mapped_address_is_the_ipv4_address() {
        let admission = admission(|limits| limits.max_sockets_per_address = 1);
        let _first = admission.seat(ip("2001:db8:1:2::1")).unwrap();
        assert_eq!(admission.seat(ip("2001:db8:1:2:ffff::9")).err(), Some(Full::Address));
        let _other = admission.seat(ip("2001:db8:1:3::1")).unwrap();
        let _mapped = admission.seat(ip("::ffff:10.0.0.1")).unwrap();
        assert_eq!(admission.seat(ip("10.0.0.1")).err(), Some(Full::Address));
    }

    /// Whoever has a /48 has 65,536 addresses that count by themselves, and may come from somewhere else as well.
    #[test]
    fn however_many_addresses_come_few_are_remembered() {
        let admission = admission(|limits| limits.max_new_sockets_per_address = 1);
        let now = Instant::now();
        for n in 0..200_000_u128 {
            let address = IpAddr::V6(Ipv6Addr::from_bits(0x2001_0db8_u128 << 96 | n << 64));
            assert!(admission.seat_at(address, now).is_ok(), "nobody new is refused");
        }
        let open = admission.0.lock();
        assert!(open.rested.len() <= MAX_REMEMBERED && open.addresses.is_empty());
    }

    #[test]
    fn connections_have_limits_of_their_own() {
        let admission = admission(|limits| {
            limits.max_sockets = 1_000;
            limits.max_sockets_per_address = 2;
        });
        let all: Vec<_> = (0..8).map(|_| admission.visit(Some(ip("10.0.0.1"))).unwrap()).collect();
        assert_eq!(admission.visit(Some(ip("10.0.0.1"))).err(), Some(Full::Connections));
        assert!(admission.visit(Some(ip("10.0.0.2"))).is_ok());
        let mut proxied = admission.visit(None).unwrap();
        assert_eq!(proxied.claim_address(ip("10.0.0.1")), Err(Full::Connections));
        drop(all);
        assert_eq!(proxied.claim_address(ip("10.0.0.1")), Ok(()));
        drop(proxied);
        assert!(admission.0.lock().addresses.is_empty());
    }

    #[test]
    fn idle_connections_leave_files_for_everything_else() {
        let mut limits = Limits::new().unwrap();
        limits.max_sockets = 1_000;
        // The database needs 20 and the process 64.
        let admission = Admission::new(limits, 184, 20);
        let all: Vec<_> = (0..100).map(|_| admission.visit(None).unwrap()).collect();
        assert_eq!(admission.visit(None).err(), Some(Full::Connections));
        drop(all);
        assert!(admission.visit(None).is_ok());
    }
}
