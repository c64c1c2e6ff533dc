//! The backend of a disk.

use super::State;
use super::ring::BackRing;
use crate::Guest;
use std::collections::BTreeSet;

/// A disk, and what its backend offers.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct XenDisk {
    /// Its content.
    pub bytes: Vec<u8>,
    /// The size of a block in bytes.
    pub block_size: u32,
    /// Further nodes of the backend, ahead of the connection.
    pub features: Vec<(String, String)>,
    /// Whether it is read-only.
    pub is_read_only: bool,
    /// Whether there is no flush.
    pub lacks_flush: bool,
    /// Whether there is a discard.
    pub has_discard: bool,
}

impl XenDisk {
    /// A disk with blocks of 512 bytes, and nothing more than a flush.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            block_size: 512,
            features: vec![],
            is_read_only: false,
            lacks_flush: false,
            has_discard: false,
        }
    }

    /// Adds a node of the backend.
    #[must_use]
    pub fn with(mut self, node: &str, value: &str) -> Self {
        self.features.push((node.into(), value.into()));
        self
    }
}

pub(super) struct Backend {
    pub disk: XenDisk,
    pub operations: Vec<u8>,
    /// States of the frontend that the backend has not looked at.
    unseen: Vec<u32>,
    /// The rings, each with its event channel.
    queues: Vec<(BackRing, u32)>,
    /// With persistent grants, the pages that stay mapped, by their references.
    pub kept: Option<BTreeSet<u32>>,
}

fn path(id: u32) -> String {
    format!("/local/domain/0/backend/vbd/1/{id}")
}

pub(super) fn add(state: &mut State, guest: &Guest, id: u32, disk: XenDisk) {
    let (backend, frontend) = (path(id), format!("device/vbd/{id}"));
    for (node, value) in &disk.features {
        state.store.set(&format!("{backend}/{node}"), value.as_bytes());
    }
    state.disks.insert(id, Backend { disk, operations: vec![], unseen: vec![], queues: vec![], kept: None });
    state.store.set(&format!("{backend}/online"), b"1");
    state.store.set(&format!("{frontend}/backend"), backend.as_bytes());
    state.store.set(&format!("{frontend}/backend-id"), b"0");
    state.set(guest, &format!("{backend}/state"), "2");
    state.set(guest, &format!("{frontend}/state"), "1");
}

/// The backends wait for frontends of a new domain.
pub(super) fn restart(state: &mut State, guest: &Guest) {
    let ids: Vec<u32> = state.disks.keys().copied().collect();
    for id in ids {
        state.disks.get_mut(&id).expect("a disk").queues.clear();
        state.store.set(&format!("device/vbd/{id}/state"), b"1");
        state.set(guest, &format!("{}/state", path(id)), "2");
    }
}

pub(super) fn frontend_changed(state: &mut State, guest: &Guest, id: u32) {
    let Some(seen) = state.store.number(&format!("device/vbd/{id}/state")) else { return };
    let lags = state.faults.lags;
    let Some(backend) = state.disks.get_mut(&id) else { return };
    backend.unseen.push(seen);
    if !lags {
        catch_up(state, guest);
    } else if backend.unseen.len() > 2 {
        let seen = backend.unseen.remove(0);
        look(state, guest, id, seen);
    }
}

/// The backends see the latest state of their frontends.
pub(super) fn catch_up(state: &mut State, guest: &Guest) {
    let ids: Vec<u32> = state.disks.keys().copied().collect();
    for id in ids {
        let unseen = std::mem::take(&mut state.disks.get_mut(&id).expect("a disk").unseen);
        unseen.last().into_iter().for_each(|seen| look(state, guest, id, *seen));
    }
}

fn look(state: &mut State, guest: &Guest, id: u32, seen: u32) {
    let Some(disk) = state.disks.get(&id).map(|backend| backend.disk.clone()) else { return };
    let (backend, frontend) = (path(id), format!("device/vbd/{id}"));
    match seen {
        // As that of Linux: it begins anew only after it has closed.
        1 if state.store.number(&format!("{backend}/state")) == Some(6) => {
            state.set(guest, &format!("{backend}/state"), "2");
        }
        3 => {
            let Some(queues) = connect(state, guest, &frontend) else { return };
            let is_drive = state.store.text(&format!("{frontend}/device-type")).as_deref() == Some("cdrom");
            let info = match (is_drive, disk.is_read_only) {
                (true, _) => "5",
                (false, true) => "4",
                (false, false) => "0",
            };
            let sectors = (disk.bytes.len() / 512).to_string();
            for (node, value) in [
                ("sectors", sectors.as_str()),
                ("sector-size", &disk.block_size.to_string()),
                ("info", info),
                ("feature-flush-cache", if disk.lacks_flush { "0" } else { "1" }),
                ("feature-discard", if disk.has_discard { "1" } else { "0" }),
            ] {
                state.store.set(&format!("{backend}/{node}"), value.as_bytes());
            }
            let both =
                [&backend, &frontend].map(|path| state.store.number(&format!("{path}/feature-persistent")));
            let disk = state.disks.get_mut(&id).expect("a disk");
            disk.queues = queues;
            disk.kept = (both == [Some(1), Some(1)]).then(BTreeSet::new);
            state.set(guest, &format!("{backend}/state"), "4");
        }
        5 | 6 if state.faults.refuses_close => {}
        5 => state.set(guest, &format!("{backend}/state"), "5"),
        6 => {
            let disk = state.disks.get_mut(&id).expect("a disk");
            let (queues, kept) = (std::mem::take(&mut disk.queues), disk.kept.take());
            queues.iter().for_each(|(ring, _)| ring.unmap(state, guest));
            kept.iter().flatten().for_each(|reference| state.set_mapped(guest, *reference, false));
            state.set(guest, &format!("{backend}/state"), "6");
        }
        _ => {}
    }
}

fn connect(state: &mut State, guest: &Guest, frontend: &str) -> Option<Vec<(BackRing, u32)>> {
    let count = state.store.number(&format!("{frontend}/multi-queue-num-queues")).unwrap_or(1);
    let order = state.store.number(&format!("{frontend}/ring-page-order"));
    (0..count)
        .map(|queue| {
            let folder = if count > 1 { format!("{frontend}/queue-{queue}") } else { frontend.to_string() };
            let names: Vec<String> = match order {
                None => vec!["ring-ref".into()],
                Some(order) => (0..1 << order).map(|page| format!("ring-ref{page}")).collect(),
            };
            let references: Option<Vec<u32>> =
                names.iter().map(|name| state.store.number(&format!("{folder}/{name}"))).collect();
            let port = state.store.number(&format!("{folder}/event-channel"))?;
            Some((BackRing::new(state, guest, &references?, 112)?, port))
        })
        .collect()
}

pub(super) fn work(state: &mut State, guest: &Guest) {
    let ids: Vec<u32> = state.disks.keys().copied().collect();
    for id in ids {
        let mut queues = std::mem::take(&mut state.disks.get_mut(&id).expect("a disk").queues);
        for (ring, port) in &mut queues {
            while let Some(request) = ring.pop(guest) {
                let status = run(state, guest, id, &request);
                let mut response = [0; 16];
                response[..8].copy_from_slice(&request[8..16]);
                response[8] = request[0];
                response[10..12].copy_from_slice(&status.to_le_bytes());
                if let Some(mutate) = &mut state.faults.mutate {
                    mutate(&mut response);
                }
                ring.push(guest, &response);
            }
            ring.arm(guest);
            if ring.publish(guest, state.faults.claims) {
                state.raised.push(*port);
            }
        }
        state.disks.get_mut(&id).expect("a disk").queues = queues;
    }
}

fn run(state: &mut State, guest: &Guest, id: u32, request: &[u8]) -> i16 {
    let long = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
    let word = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
    let sector = long(request, 16);
    let (operation, segments) = match request[0] {
        6 => {
            let count = usize::from(u16::from_le_bytes([request[2], request[3]]));
            let reference = word(request, 28);
            // As that of Linux, which maps pages to be written that it keeps.
            let is_kept = state.disks.get(&id).is_some_and(|disk| disk.kept.is_some());
            let Some(page) = state.page(guest, reference, is_kept) else { return -1 };
            keep(state, guest, id, &[reference]);
            (request[1], guest.read(page, count.min(512) * 8))
        }
        operation => (operation, request[24..24 + 8 * usize::from(request[1].min(11))].to_vec()),
    };
    let backend = state.disks.get_mut(&id).expect("a disk");
    match operation {
        0 | 1 => {}
        3 if !backend.disk.lacks_flush => {
            backend.operations.push(3);
            return 0;
        }
        5 if backend.disk.has_discard => {
            backend.operations.push(5);
            let (from, count) = (sector as usize * 512, long(request, 24) as usize * 512);
            return match backend.disk.bytes.get_mut(from..from.saturating_add(count)) {
                Some(bytes) => {
                    bytes.fill(0xdd);
                    0
                }
                None => -1,
            };
        }
        _ => return -2,
    }
    if operation == 1 && backend.disk.is_read_only {
        return -1;
    }
    let mut at = sector as usize * 512;
    let mut status = 0;
    let mut mapped = vec![];
    for segment in segments.chunks_exact(8) {
        let (reference, first, last) = (word(segment, 0), usize::from(segment[4]), usize::from(segment[5]));
        let is_kept = state.disks.get(&id).is_some_and(|disk| disk.kept.is_some());
        let Some(page) = state.page(guest, reference, is_kept || operation == 0) else { return -1 };
        if first > last || last > 7 {
            return -1;
        }
        state.set_mapped(guest, reference, true);
        mapped.push(reference);
        let len = (last - first + 1) * 512;
        let address = page + first as u64 * 512;
        let backend = state.disks.get_mut(&id).expect("a disk");
        match backend.disk.bytes.get_mut(at..at.saturating_add(len)) {
            Some(bytes) if operation == 0 => guest.write(address, bytes),
            Some(bytes) => bytes.copy_from_slice(&guest.read(address, len)),
            None => status = -1,
        }
        at += len;
    }
    if !keep(state, guest, id, &mapped) && !state.faults.keeps_pages {
        mapped.into_iter().for_each(|reference| state.set_mapped(guest, reference, false));
    }
    status
}

/// With persistent grants, lets pages stay mapped; returns whether they do.
fn keep(state: &mut State, guest: &Guest, id: u32, references: &[u32]) -> bool {
    let Some(kept) = &mut state.disks.get_mut(&id).expect("a disk").kept else { return false };
    kept.extend(references);
    references.iter().for_each(|reference| state.set_mapped(guest, *reference, true));
    true
}
