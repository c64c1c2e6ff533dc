//! Xenstore: a tree of nodes, watches, and the two byte rings.

use super::{STORE_PAGE, STORE_PORT, State};
use crate::Guest;
use std::collections::{BTreeMap, VecDeque};

const LEN: u32 = 1024;

/// The nodes, by their paths, without a tree: a directory is what is below a path.
pub(super) struct Store {
    nodes: BTreeMap<String, Vec<u8>>,
    watches: Vec<(String, String)>,
    /// Bytes of a request that have come, and those of answers that have not gone.
    request: Vec<u8>,
    answers: VecDeque<u8>,
    transactions: u32,
}

impl Store {
    pub fn new() -> Self {
        let nodes = [("domid", "1"), ("control/shutdown", "")];
        let nodes = nodes.map(|(path, value)| (path.into(), value.into())).into();
        Self { nodes, watches: vec![], request: vec![], answers: VecDeque::new(), transactions: 0 }
    }

    pub fn set(&mut self, path: &str, value: &[u8]) {
        self.nodes.insert(path.into(), value.into());
    }

    pub fn text(&self, path: &str) -> Option<String> {
        self.nodes.get(path).map(|value| String::from_utf8_lossy(value).into_owned())
    }

    pub fn number(&self, path: &str) -> Option<u32> {
        self.text(path)?.parse().ok()
    }

    /// Removes a node and what is below it.
    pub fn remove(&mut self, path: &str) {
        let below = format!("{path}/");
        self.nodes.retain(|node, _| node != path && !node.starts_with(&below));
    }

    fn names(&self, path: &str) -> Vec<String> {
        let below = format!("{path}/");
        let names = self.nodes.keys().filter_map(|node| node.strip_prefix(&below)?.split('/').next());
        let mut names: Vec<String> = names.map(String::from).collect();
        names.dedup();
        names
    }

    pub fn forget_watches(&mut self) {
        self.watches.clear();
        self.request.clear();
        self.answers.clear();
    }

    fn answer(&mut self, kind: u32, request: u32, transaction: u32, body: &[u8]) -> Vec<u8> {
        let words = [kind, request, transaction, body.len() as u32].map(u32::to_le_bytes);
        [words.as_flattened(), body].concat()
    }
}

/// Tells watches of a change.
pub(super) fn fire(state: &mut State, path: &str) {
    let watches = state.store.watches.clone();
    for (watched, token) in watches {
        if path == watched || path.starts_with(&format!("{watched}/")) {
            let body = [path.as_bytes(), &[0], token.as_bytes(), &[0]].concat();
            let message = state.store.answer(15, 0, 0, &body);
            push(state, message);
        }
    }
}

fn push(state: &mut State, mut message: Vec<u8>) {
    if let Some(mutate) = &mut state.faults.mutate_store {
        mutate(&mut message);
    }
    state.store.answers.extend(message);
}

/// Reads requests, and writes answers as far as there is room.
pub(super) fn work(state: &mut State, guest: &Guest) {
    if state.faults.is_deaf {
        return;
    }
    let word = |at: u64| {
        let byte = |byte: u64| u32::from(guest.register(STORE_PAGE + at + byte)) << (8 * byte);
        (0..4).map(byte).sum::<u32>()
    };
    let (mut consumed, produced) = (word(2048), word(2052));
    // A guest that breaks the rules is not answered.
    if produced.wrapping_sub(consumed) > LEN {
        return;
    }
    while consumed != produced {
        let byte = guest.register(STORE_PAGE + u64::from(consumed & (LEN - 1)));
        state.store.request.push(byte);
        consumed = consumed.wrapping_add(1);
    }
    guest.set_register(STORE_PAGE + 2048, consumed);
    while let Some(request) = next_request(&mut state.store) {
        run(state, guest, &request);
    }
    let (consumed, mut produced) = (word(2056), word(2060));
    let before = produced;
    while produced.wrapping_sub(consumed) < LEN {
        let Some(byte) = state.store.answers.pop_front() else { break };
        guest.set_register_byte(STORE_PAGE + 1024 + u64::from(produced & (LEN - 1)), byte);
        produced = produced.wrapping_add(1);
    }
    guest.set_register(STORE_PAGE + 2060, produced);
    if produced != before {
        state.raised.push(STORE_PORT);
    }
}

fn next_request(store: &mut Store) -> Option<Vec<u8>> {
    let len = u32::from_le_bytes(store.request.get(12..16)?.try_into().ok()?) as usize;
    (store.request.len() >= 16 + len).then(|| store.request.drain(..16 + len).collect())
}

fn run(state: &mut State, guest: &Guest, request: &[u8]) {
    let word = |at: usize| u32::from_le_bytes(request[at..at + 4].try_into().expect("four bytes"));
    let (kind, number, transaction) = (word(0), word(4), word(8));
    let parts: Vec<&[u8]> = request[16..].split(|byte| *byte == 0).collect();
    let text = |at: usize| String::from_utf8_lossy(parts.get(at).copied().unwrap_or_default()).into_owned();
    let path = text(0);
    let mut written = None;
    let mut watched = None;
    let result: Result<Vec<u8>, &str> = match kind {
        1 => match state.store.names(&path) {
            names if names.is_empty() && state.store.text(&path).is_none() => Err("ENOENT"),
            names => Ok(names.into_iter().flat_map(|name| [name.into_bytes(), vec![0]].concat()).collect()),
        },
        2 => state.store.nodes.get(&path).cloned().ok_or("ENOENT"),
        4 if state.store.watches.contains(&(path.clone(), text(1))) => Err("EEXIST"),
        4 => {
            state.store.watches.push((path.clone(), text(1)));
            watched = Some([path.as_bytes(), &[0], text(1).as_bytes(), &[0]].concat());
            Ok(b"OK\0".into())
        }
        5 => {
            state.store.watches.retain(|watch| *watch != (path.clone(), text(1)));
            Ok(b"OK\0".into())
        }
        6 => {
            state.store.transactions += 1;
            Ok(format!("{}\0", state.store.transactions).into_bytes())
        }
        7 if path == "T" && state.faults.conflicts > 0 => {
            state.faults.conflicts -= 1;
            Err("EAGAIN")
        }
        7 => Ok(b"OK\0".into()),
        11 => {
            let value = request.get(16 + path.len() + 1..).unwrap_or_default();
            state.store.set(&path, value);
            written = Some(path.clone());
            Ok(b"OK\0".into())
        }
        13 => {
            state.store.remove(&path);
            written = Some(path.clone());
            Ok(b"OK\0".into())
        }
        21 => {
            state.store.watches.clear();
            Ok(b"OK\0".into())
        }
        _ => Err("ENOSYS"),
    };
    let message = match result {
        Ok(body) => state.store.answer(kind, number, transaction, &body),
        Err(name) => state.store.answer(16, number, transaction, &[name.as_bytes(), &[0]].concat()),
    };
    push(state, message);
    if let Some(body) = watched {
        let message = state.store.answer(15, 0, 0, &body);
        push(state, message);
    }
    if let Some(path) = written {
        state.changed(guest, &path);
    }
}
