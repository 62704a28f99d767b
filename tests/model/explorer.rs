//! Walks through every state that a model can reach, nearest first, until one is wrong: so what it prints is a shortest trace.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::rc::Rc;

/// Actors and the world they share. One step of one actor is one edge; nothing happens in between.
pub trait Model {
    /// All that is remembered by anybody, and what the judge remembers beside.
    type State: Clone + Eq + Hash;

    /// Where it begins.
    fn start(&self) -> Self::State;

    /// What may happen next.
    fn steps(&self, steps: &mut Steps<'_, Self::State>);

    /// What is wrong here. `calm`: everything that must happen has happened, so that nothing may be missing any more.
    fn judge(&self, state: &Self::State, calm: bool) -> Option<Wrong>;
}

/// What a protocol must not do.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Wrong {
    /// A committed notification was not shown and will not be.
    Lost,
    /// One socket got a notification twice, and there was no crash of the server.
    Twice,
    /// What was rolled back, or never committed, was told.
    NotCommitted,
    /// A position became older than it was.
    WentBack,
    /// An instance has missed nothing and yet has to read what it was told.
    Stalled,
}

/// What happens, in words; `#` stands for the number.
type Words = (&'static str, u8);

/// Collects what may happen in a state.
pub struct Steps<'a, S> {
    /// The state they begin in.
    pub from: &'a S,
    found: Vec<(Words, S)>,
    calm: bool,
}

impl<S: Clone + Eq> Steps<'_, S> {
    /// Something that may happen, or never: a write, a fault, a decision of a person.
    pub fn may(&mut self, words: &'static str, number: u8, change: impl FnOnce(&mut S)) {
        let mut to = self.from.clone();
        change(&mut to);
        if to != *self.from {
            self.found.push(((words, number), to));
        }
    }

    /// Something that happens sooner or later unless something else makes it needless: what the service owes.
    pub fn must(&mut self, words: &'static str, number: u8, change: impl FnOnce(&mut S)) {
        let before = self.found.len();
        self.may(words, number, change);
        self.calm &= self.found.len() == before;
    }
}

/// What a search found.
pub struct Explored {
    states: usize,
    /// States in which nothing was owed.
    calm: usize,
    violation: Option<Violation>,
}

struct Violation {
    wrong: Wrong,
    trace: Vec<Words>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:?}, after", self.wrong)?;
        for (n, (words, number)) in self.trace.iter().enumerate() {
            writeln!(f, "{:>4}. {}", n + 1, words.replace('#', &number.to_string()))?;
        }
        Ok(())
    }
}

/// Hashes states: in a debug build the standard library's hasher would take half of the search's time.
#[derive(Default)]
struct Mixer(u64);

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u8(*byte));
    }

    fn write_u8(&mut self, n: u8) {
        self.write_u64(n.into());
    }

    fn write_u32(&mut self, n: u32) {
        self.write_u64(n.into());
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0.rotate_left(5) ^ n).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }

    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 32
    }
}

/// Walks until all states are known or one is wrong.
pub fn explore<M: Model>(model: &M) -> Explored {
    let start = Rc::new(model.start());
    let mut known = HashMap::<_, _, BuildHasherDefault<Mixer>>::from_iter([(start.clone(), 0)]);
    // In order of discovery: the state, and by which step from which state it was first reached.
    let mut states = vec![(start, 0, ("", 0))];
    let mut calm = 0;
    let mut next = 0;
    while next < states.len() {
        let state = states[next].0.clone();
        let mut steps = Steps { from: &*state, found: Vec::new(), calm: true };
        model.steps(&mut steps);
        calm += usize::from(steps.calm);
        if let Some(wrong) = model.judge(&state, steps.calm) {
            let mut trace = Vec::new();
            let mut at = next;
            while at > 0 {
                trace.push(states[at].2);
                at = states[at].1;
            }
            trace.reverse();
            return Explored { states: states.len(), calm, violation: Some(Violation { wrong, trace }) };
        }
        for (words, to) in steps.found {
            let to = Rc::new(to);
            if let Entry::Vacant(unknown) = known.entry(to.clone()) {
                unknown.insert(states.len());
                states.push((to, next, words));
            }
        }
        next += 1;
    }
    Explored { states: states.len(), calm, violation: None }
}

/// Asserts that a protocol never goes wrong.
#[track_caller]
pub fn holds<M: Model>(name: &str, model: &M) {
    let Explored { states, calm, violation } = explore(model);
    println!("{name}: {states} states, {calm} of them calm");
    if let Some(violation) = violation {
        panic!("{name}: {violation}");
    }
    assert!(calm > 0, "{name}: never calm, so nothing was ever missed");
}

/// Asserts that the search finds what is wrong with a protocol.
#[track_caller]
pub fn breaks<M: Model>(name: &str, model: &M, wrong: Wrong) {
    let Explored { states, violation, .. } = explore(model);
    match violation {
        Some(violation) if violation.wrong == wrong => println!("{name}, {states} states: {violation}"),
        Some(violation) => panic!("{name}: expected {wrong:?}, found {violation}"),
        None => panic!("{name}: expected {wrong:?}, found nothing wrong in {states} states"),
    }
}
