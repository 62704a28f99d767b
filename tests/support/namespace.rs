//! A network namespace with two links to this one, of which one can be made a black hole: nothing passes, and nobody is told.

use std::path::Path;
use std::process::{Command, id};
use std::sync::atomic::{AtomicBool, Ordering};

/// Removed when dropped; what an earlier run left behind when it was killed is removed by the next.
pub struct Namespace {
    pub name: String,
    net: u8,
    swallowing: AtomicBool,
}

impl Namespace {
    /// `None`, with a word on the terminal, where that needs rights this process does not have.
    pub fn make() -> Option<Self> {
        remove_left_behind();
        let name = format!("parkmate-{}", id());
        if !ip(&format!("netns add {name}")) {
            println!("skipped: network namespaces need root and the package iproute2");
            return None;
        }
        let mut namespace = Self { name, net: 0, swallowing: AtomicBool::new(false) };
        for _ in 0..5 {
            // Of 198.18.0.0/15, which is for tests of networks; another run beside this one may have the same.
            namespace.net = fastrand::u8(..);
            if namespace.link(0) && namespace.link(1) && ip(&format!("-n {} link set lo up", namespace.name)) {
                // Left behind by a run that was killed; the links are ours, so it is nobody's.
                ip(&format!("route del blackhole {}/32", namespace.there(0)));
                return Some(namespace);
            }
        }
        println!("skipped: no veth links here");
        None
    }

    fn link(&self, link: u8) -> bool {
        let (name, net) = (&self.name, self.net);
        let (here, there) = (format!("pm{net}h{link}"), format!("pm{net}t{link}"));
        ip(&format!("link add {here} type veth peer name {there}"))
            && ip(&format!("link set {there} netns {name}"))
            && ip(&format!("addr add {}/30 dev {here}", self.here(link)))
            && ip(&format!("link set {here} up"))
            && ip(&format!("-n {name} addr add {}/30 dev {there}", self.there(link)))
            && ip(&format!("-n {name} link set {there} up"))
    }

    fn here(&self, link: u8) -> String {
        format!("198.18.{}.{}", self.net, 4 * link + 1)
    }

    /// The address inside that a link leads to.
    pub fn there(&self, link: u8) -> String {
        format!("198.18.{}.{}", self.net, 4 * link + 2)
    }

    /// Makes a link a black hole in both directions, or a link again.
    pub fn swallow(&self, link: u8, swallow: bool) {
        self.swallowing.store(swallow, Ordering::Relaxed);
        let verb = if swallow { "add" } else { "del" };
        assert!(ip(&format!("route {verb} blackhole {}/32", self.there(link))));
        assert!(ip(&format!("-n {} route {verb} blackhole {}/32", self.name, self.here(link))));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The links go with it; a black hole of ours does not.
        if self.swallowing.load(Ordering::Relaxed) {
            self.swallow(0, false);
        }
        ip(&format!("netns del {}", self.name));
    }
}

fn remove_left_behind() {
    let Ok(names) = std::fs::read_dir("/run/netns") else { return };
    for name in names.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        if let Some(process) = name.strip_prefix("parkmate-")
            && !Path::new("/proc").join(process).exists()
        {
            ip(&format!("netns del {name}"));
        }
    }
}

fn ip(arguments: &str) -> bool {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    output.is_ok_and(|output| output.status.success())
}
