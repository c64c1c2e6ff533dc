//! Event channels: the tables of the shared page, and the queues of the FIFO interface.

use super::{INVALID, NOT_IMPLEMENTED, PAGE, State, XenHost, word32, word64};
use crate::Guest;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, Ordering};

/// Offsets in the shared page.
const PENDING: u64 = 2048;
const MASK: u64 = 2560;
/// Flags of a port's word of the FIFO interface.
const IS_PENDING: u32 = 1 << 31;
const IS_MASKED: u32 = 1 << 30;
const IS_LINKED: u32 = 1 << 29;
/// The priority that every port has.
const QUEUE: u64 = 7;

/// The memory of the FIFO interface, once the guest has given some.
#[derive(Default)]
pub(super) struct Fifo {
    /// Where the queues of each processor are.
    blocks: BTreeMap<u32, u64>,
    words: Vec<u64>,
    /// The last port of the queue of each processor.
    tails: BTreeMap<u32, u32>,
}

impl Fifo {
    fn word(&self, port: u32) -> Option<u64> {
        Some(self.words.get(port as usize / 1024)? + u64::from(port % 1024) * 4)
    }

    /// Notes an event; returns whether the processor is to be told.
    fn note(&mut self, guest: &Guest, port: u32, vcpu: u32) -> bool {
        let (Some(word), Some(block)) = (self.word(port), self.blocks.get(&vcpu)) else { return false };
        let seen = word32(guest, word).fetch_or(IS_PENDING, Ordering::SeqCst);
        if seen & (IS_MASKED | IS_LINKED) != 0 {
            return false;
        }
        word32(guest, word).fetch_or(IS_LINKED, Ordering::SeqCst);
        let tail =
            self.tails.insert(vcpu, port).and_then(|tail| self.word(tail)).filter(|tail| *tail != word);
        let is_linked = |tail: &u64| word32(guest, *tail).load(Ordering::SeqCst) & IS_LINKED != 0;
        if let Some(tail) = tail.filter(is_linked) {
            word32(guest, tail).fetch_or(port, Ordering::SeqCst);
            return false;
        }
        word32(guest, block + 8 + QUEUE * 4).store(port, Ordering::SeqCst);
        word32(guest, *block).fetch_or(1 << QUEUE, Ordering::SeqCst) & 1 << QUEUE == 0
    }
}

impl State {
    pub(super) fn add_queues(&mut self, frame: u64, offset: u32, vcpu: u32) -> i64 {
        match &mut self.fifo {
            None => NOT_IMPLEMENTED,
            Some(_) if self.faults.refuses_queues_of == Some(vcpu) => -2,
            Some(fifo) if fifo.blocks.contains_key(&vcpu) || u64::from(offset) + 72 > PAGE => INVALID,
            Some(fifo) => {
                fifo.blocks.insert(vcpu, frame * PAGE + u64::from(offset));
                0
            }
        }
    }

    pub(super) fn add_words(&mut self, frame: u64) -> i64 {
        match &mut self.fifo {
            Some(fifo) if !fifo.blocks.is_empty() && !self.faults.refuses_words => {
                fifo.words.push(frame * PAGE);
                0
            }
            _ => INVALID,
        }
    }

    /// Notes an event in the tables; returns whether the processor is to be told.
    fn note(&self, guest: &Guest, shared: u64, port: u32, vcpu: u32) -> bool {
        let (word, bit) = (u64::from(port / 64), 1u64 << (port % 64));
        if word64(guest, shared + PENDING + 8 * word).fetch_or(bit, Ordering::SeqCst) & bit != 0
            || word64(guest, shared + MASK + 8 * word).load(Ordering::SeqCst) & bit != 0
        {
            return false;
        }
        let selector = word64(guest, shared + 64 * u64::from(vcpu) + 8);
        selector.fetch_or(1 << word, Ordering::SeqCst) & 1 << word == 0
    }
}

impl XenHost {
    /// Sends the guest an event by one of its event channels.
    pub fn raise(&self, port: u32) {
        self.with(|state, _| state.raised.push(port));
    }

    /// Whether the processors take no interrupts. Those that came meanwhile are taken afterwards.
    pub fn hold_interrupts(&self, holds: bool) {
        let held = std::mem::replace(&mut self.lock().held, holds.then(std::collections::BTreeSet::new));
        let held = held.unwrap_or_default();
        self.guest.with(|guest| held.iter().for_each(|(vcpu, vector)| guest.interrupt(*vcpu, *vector)));
    }

    /// Notes an event, and interrupts the processor if it has no events yet.
    pub(super) fn deliver(&self, guest: &Guest, port: u32) {
        let vector = {
            let state = &mut *self.lock();
            let Some(shared) = state.shared.map(|frame| frame * PAGE) else { return };
            let vcpu = state.vcpus.get(&port).copied().unwrap_or(0);
            let is_new = match &mut state.fifo {
                Some(fifo) if !fifo.blocks.is_empty() => fifo.note(guest, port, vcpu),
                _ => state.note(guest, shared, port, vcpu),
            };
            // SAFETY: the shared page is in guest memory.
            let flag = unsafe { &*guest.host(shared + 64 * u64::from(vcpu)).cast::<AtomicU8>() };
            if !is_new || flag.swap(1, Ordering::SeqCst) != 0 {
                return;
            }
            let callback = (state.callback >> 56 == 2).then_some(state.callback as u8);
            let vector = state.vectors.get(&vcpu).copied().or(callback).filter(|vector| *vector != 0);
            match (vector, &mut state.held) {
                (Some(vector), Some(held)) => {
                    held.insert((vcpu, vector));
                    None
                }
                (vector, _) => vector.map(|vector| (vcpu, vector)),
            }
        };
        vector.into_iter().for_each(|(vcpu, vector)| guest.interrupt(vcpu, vector));
    }
}
