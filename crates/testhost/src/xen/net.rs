//! The backend of a network card.

use super::State;
use super::ring::BackRing;
use crate::Guest;

/// A frame that the guest has sent.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct XenFrame {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The flags of its first request.
    pub flags: u16,
    /// Size and kind of the segments that it is to become.
    pub segmentation: Option<(u16, u8)>,
    /// The number of its requests.
    pub requests: usize,
}

/// How a frame is given to the guest.
#[derive(Clone, Debug, Default)]
pub struct XenReceived {
    /// The flags of its first response.
    pub flags: u16,
    /// Size and kind of the segments that it was.
    pub segmentation: Option<(u16, u8)>,
    /// Where in a page it begins.
    pub offset: u16,
    /// Bytes of a page that are used; 0 for all.
    pub piece: usize,
}

pub(super) struct Backend {
    pub sent: Vec<XenFrame>,
    /// The multicast addresses whose frames pass, if the guest has asked for that.
    filter: Option<Vec<[u8; 6]>>,
    rings: Option<Rings>,
}

/// Transmit and receive ring, each with its event channel, which may be the same.
struct Rings {
    tx: (BackRing, u32),
    rx: (BackRing, u32),
}

fn path(id: u32) -> String {
    format!("/local/domain/0/backend/vif/1/{id}")
}

pub(super) fn add(state: &mut State, guest: &Guest, id: u32, features: &[(&str, &str)]) {
    let (backend, frontend) = (path(id), format!("device/vif/{id}"));
    state.cards.insert(id, Backend { sent: vec![], filter: None, rings: None });
    state.store.set(&format!("{backend}/feature-rx-copy"), b"1");
    for (node, value) in features {
        state.store.set(&format!("{backend}/{node}"), value.as_bytes());
    }
    state.store.set(&format!("{backend}/online"), b"1");
    state.store.set(&format!("{frontend}/backend"), backend.as_bytes());
    state.store.set(&format!("{frontend}/backend-id"), b"0");
    state.store.set(&format!("{frontend}/mac"), b"00:16:3e:00:00:01");
    state.set(guest, &format!("{backend}/state"), "2");
    state.set(guest, &format!("{frontend}/state"), "1");
}

/// The backends wait for frontends of a new domain.
pub(super) fn restart(state: &mut State, guest: &Guest) {
    let ids: Vec<u32> = state.cards.keys().copied().collect();
    for id in ids {
        state.cards.get_mut(&id).expect("a card").rings = None;
        state.store.set(&format!("device/vif/{id}/state"), b"1");
        state.set(guest, &format!("{}/state", path(id)), "2");
    }
}

pub(super) fn frontend_changed(state: &mut State, guest: &Guest, id: u32) {
    if !state.cards.contains_key(&id) {
        return;
    }
    let (backend, frontend) = (path(id), format!("device/vif/{id}"));
    match state.store.number(&format!("{frontend}/state")) {
        Some(1) if state.store.number(&format!("{backend}/online")) == Some(1) => {
            state.set(guest, &format!("{backend}/state"), "2");
        }
        Some(4) => {
            let several = state.store.number(&format!("{frontend}/multi-queue-num-queues")).unwrap_or(1) > 1;
            // This backend serves the first pair.
            let folder = if several { format!("{frontend}/queue-0") } else { frontend };
            let number = |state: &State, name: &str| state.store.number(&format!("{folder}/{name}"));
            let one = number(state, "event-channel");
            let port = |state: &State, name: &str| number(state, name).or(one);
            let ports = (port(state, "event-channel-tx"), port(state, "event-channel-rx"));
            let rings = (number(state, "tx-ring-ref"), number(state, "rx-ring-ref"));
            let ((Some(tx), Some(rx)), (Some(tx_port), Some(rx_port))) = (rings, ports) else { return };
            let Some(tx) = BackRing::new(state, guest, &[tx], 12) else { return };
            let Some(rx) = BackRing::new(state, guest, &[rx], 8) else { return };
            let rings = Rings { tx: (tx, tx_port), rx: (rx, rx_port) };
            let filters =
                state.store.number(&format!("device/vif/{id}/request-multicast-control")) == Some(1);
            let card = state.cards.get_mut(&id).expect("a card");
            card.rings = Some(rings);
            card.filter = filters.then(Vec::new);
            state.set(guest, &format!("{backend}/state"), "4");
        }
        Some(5 | 6) if state.faults.refuses_close => {}
        Some(5) => state.set(guest, &format!("{backend}/state"), "5"),
        Some(6) => {
            if let Some(rings) = state.cards.get_mut(&id).expect("a card").rings.take() {
                rings.tx.0.unmap(state, guest);
                rings.rx.0.unmap(state, guest);
            }
            state.set(guest, &format!("{backend}/state"), "6");
        }
        _ => {}
    }
}

pub(super) fn work(state: &mut State, guest: &Guest) {
    let ids: Vec<u32> = state.cards.keys().copied().collect();
    for id in ids {
        let Some(mut rings) = state.cards.get_mut(&id).expect("a card").rings.take() else {
            continue;
        };
        let (tx, port) = &mut rings.tx;
        while let Some(request) = tx.pop(guest) {
            send(state, guest, id, tx, request);
        }
        tx.arm(guest);
        if tx.publish(guest, state.faults.claims) {
            state.raised.push(*port);
        }
        state.cards.get_mut(&id).expect("a card").rings = Some(rings);
    }
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// Takes a frame, which begins with `first`.
fn send(state: &mut State, guest: &Guest, id: u32, tx: &mut BackRing, first: Vec<u8>) {
    let flags = half(&first, 6);
    let total = usize::from(half(&first, 10));
    let mut frame = XenFrame { bytes: vec![], flags, segmentation: None, requests: 0 };
    let mut answers = vec![(half(&first, 8), 0i16)];
    if flags & 8 != 0 {
        if let Some(extra) = tx.pop(guest) {
            frame.segmentation = (extra[0] == 1).then(|| (half(&extra, 2), extra[4]));
            answers.push((0, 1));
            if extra[0] == 2 {
                let filter = &mut state.cards.get_mut(&id).expect("a card").filter;
                match filter {
                    Some(addresses) if addresses.len() < 64 => {
                        addresses.push(extra[2..8].try_into().expect("6"))
                    }
                    _ => answers[0].1 = -1,
                }
                return answer(state, guest, tx, answers);
            }
        }
    }
    let mut requests = vec![first];
    while half(requests.last().expect("one"), 6) & 4 != 0 {
        let Some(request) = tx.pop(guest) else { break };
        answers.push((half(&request, 8), 0));
        requests.push(request);
    }
    frame.requests = requests.len();
    let later: usize = requests[1..].iter().map(|request| usize::from(half(request, 10))).sum();
    for (at, request) in requests.iter().enumerate() {
        let reference = u32::from_le_bytes(request[..4].try_into().expect("4 bytes"));
        let offset = half(request, 4);
        let len = if at == 0 { total.saturating_sub(later) } else { usize::from(half(request, 10)) };
        match state.page(guest, reference, false) {
            Some(page) if usize::from(offset) + len <= 4096 => {
                frame.bytes.extend(guest.read(page + u64::from(offset), len))
            }
            _ => answers.iter_mut().filter(|(_, status)| *status == 0).for_each(|(_, status)| *status = -1),
        }
        if state.faults.keeps_pages {
            state.set_mapped(guest, reference, true);
        }
    }
    state.cards.get_mut(&id).expect("a card").sent.push(frame);
    answer(state, guest, tx, answers);
}

fn answer(state: &mut State, guest: &Guest, tx: &mut BackRing, answers: Vec<(u16, i16)>) {
    for (number, status) in answers {
        let mut response = [number.to_le_bytes(), status.to_le_bytes()].concat();
        if let Some(mutate) = &mut state.faults.mutate {
            mutate(&mut response);
        }
        tx.push(guest, &response);
    }
}

/// Gives a frame to the guest, unless there is no room, or its filter keeps it off; returns whether it did.
pub(super) fn receive(state: &mut State, guest: &Guest, id: u32, bytes: &[u8], how: &XenReceived) -> bool {
    let filter = state.cards.get(&id).and_then(|card| card.filter.as_ref());
    let is_multicast = bytes.first().is_some_and(|first| first & 1 != 0) && !bytes.starts_with(&[0xff; 6]);
    let passes = |addresses: &Vec<[u8; 6]>| addresses.iter().any(|address| bytes.starts_with(address));
    if is_multicast && filter.is_some_and(|addresses| !passes(addresses)) {
        return false;
    }
    let Some(mut rings) = state.cards.get_mut(&id).and_then(|card| card.rings.take()) else {
        return false;
    };
    let (rx, port) = &mut rings.rx;
    let room = 4096 - usize::from(how.offset);
    let piece = if how.piece == 0 { room } else { how.piece.min(room) };
    let count = bytes.len().div_ceil(piece).max(1);
    let extras = usize::from(how.segmentation.is_some());
    let has_room = rx.available(guest) as usize >= count + extras;
    if has_room {
        for (at, part) in bytes.chunks(piece).enumerate() {
            let Some(request) = rx.pop(guest) else { break };
            let reference = u32::from_le_bytes(request[4..8].try_into().expect("4 bytes"));
            let mut status = part.len() as u16;
            match state.page(guest, reference, true) {
                Some(page) => guest.write(page + u64::from(how.offset), part),
                None => status = u16::MAX,
            }
            if state.faults.keeps_pages {
                state.set_mapped(guest, reference, true);
            }
            let more = if at + 1 < count { 4 } else { 0 };
            let own = if at == 0 { how.flags | if extras > 0 { 8 } else { 0 } } else { 0 };
            let mut response =
                [half(&request, 0), how.offset, own | more, status].map(u16::to_le_bytes).concat();
            if let Some(mutate) = &mut state.faults.mutate {
                mutate(&mut response);
            }
            rx.push(guest, &response);
            if let (0, Some((size, kind))) = (at, how.segmentation) {
                let _ = rx.pop(guest);
                rx.push(guest, &[1, 0, size as u8, (size >> 8) as u8, kind, 0, 0, 0]);
            }
        }
        if rx.publish(guest, 0) {
            state.raised.push(*port);
        }
    }
    rx.arm(guest);
    state.cards.get_mut(&id).expect("a card").rings = Some(rings);
    has_room
}
