//! The backend's side of a ring of requests and responses.

use super::{PAGE, State, word32};
use crate::Guest;
use std::sync::atomic::Ordering;

/// A ring that a frontend has published.
pub(super) struct BackRing {
    /// The references and addresses of its pages.
    pages: Vec<(u32, u64)>,
    entry: u64,
    size: u32,
    consumed: u32,
    answered: u32,
}

impl BackRing {
    /// Maps the pages of a ring; `None` if they were not granted.
    pub fn new(state: &mut State, guest: &Guest, references: &[u32], entry: u64) -> Option<Self> {
        let mut pages = vec![];
        for reference in references {
            let page = state.page(guest, *reference, true)?;
            state.set_mapped(guest, *reference, true);
            pages.push((*reference, page));
        }
        let room = (pages.len() as u64 * PAGE - 64) / entry;
        Some(Self { pages, entry, size: 1 << room.ilog2(), consumed: 0, answered: 0 })
    }

    /// Unmaps it.
    pub fn unmap(&self, state: &State, guest: &Guest) {
        self.pages.iter().for_each(|(reference, _)| state.set_mapped(guest, *reference, false));
    }

    fn at(&self, offset: u64) -> u64 {
        self.pages[(offset / PAGE) as usize].1 + offset % PAGE
    }

    fn bytes(&self, offset: u64, len: u64) -> Vec<u64> {
        (0..len).map(|byte| self.at(offset + byte)).collect()
    }

    /// The next request, if there is one.
    pub fn pop(&mut self, guest: &Guest) -> Option<Vec<u8>> {
        let produced = word32(guest, self.at(0)).load(Ordering::SeqCst);
        let count = produced.wrapping_sub(self.consumed);
        if count == 0 || count > self.size {
            return None;
        }
        let offset = 64 + u64::from(self.consumed & (self.size - 1)) * self.entry;
        self.consumed = self.consumed.wrapping_add(1);
        Some(self.bytes(offset, self.entry).into_iter().map(|at| guest.read(at, 1)[0]).collect())
    }

    /// How many requests there are.
    pub fn available(&self, guest: &Guest) -> u32 {
        word32(guest, self.at(0)).load(Ordering::SeqCst).wrapping_sub(self.consumed)
    }

    /// Asks for an event at the next request.
    pub fn arm(&self, guest: &Guest) {
        word32(guest, self.at(4)).store(self.consumed.wrapping_add(1), Ordering::SeqCst);
    }

    /// Writes a response; [`publish`](Self::publish) shows it.
    pub fn push(&mut self, guest: &Guest, response: &[u8]) {
        let offset = 64 + u64::from(self.answered & (self.size - 1)) * self.entry;
        for (at, byte) in self.bytes(offset, response.len() as u64).into_iter().zip(response) {
            guest.write(at, &[*byte]);
        }
        self.answered = self.answered.wrapping_add(1);
    }

    /// Shows the responses; returns whether the frontend wants an event. `more` are claimed besides.
    pub fn publish(&self, guest: &Guest, more: u32) -> bool {
        let produced = word32(guest, self.at(8));
        let (old, new) = (produced.load(Ordering::SeqCst), self.answered.wrapping_add(more));
        produced.store(new, Ordering::SeqCst);
        let event = word32(guest, self.at(12)).load(Ordering::SeqCst);
        old != new && new.wrapping_sub(event) < new.wrapping_sub(old)
    }
}
