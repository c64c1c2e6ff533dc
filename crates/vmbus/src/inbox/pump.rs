use super::sync::AtomicBool;
use core::sync::atomic::Ordering;

/// The message slot and the inbox, as far as moving messages goes.
pub trait Source {
    /// Whether there is a message in the slot.
    fn has_message(&self) -> bool;
    /// Whether the inbox has no room.
    fn is_full(&self) -> bool;
    /// Moves the message from the slot to the inbox; false where there is none.
    fn transfer(&self) -> bool;
}

/// Moves messages from the slot to the inbox, and says where it left one.
pub struct Pump {
    is_pumping: AtomicBool,
    /// A message was left in the slot, whose interrupt has come: the task that drains the inbox has to pump.
    is_stalled: AtomicBool,
}

impl Pump {
    pub fn new() -> Self {
        Self { is_pumping: AtomicBool::new(false), is_stalled: AtomicBool::new(false) }
    }

    /// Moves messages until there are none, or at least `most` were moved, or the inbox is full; whether the inbox is to be
    /// drained: some were moved, or one was left, of which no further interrupt may tell. Callable from an interrupt that comes in the middle of it.
    pub fn run(&self, most: u32, source: &impl Source) -> bool {
        let mut count = 0u32;
        // A host that makes messages appear and vanish does not hold the processor: each round but the last moves one.
        for _ in 0..=most {
            if self.is_pumping.swap(true, Ordering::AcqRel) {
                // The one that was interrupted looks again before it returns.
                return count > 0;
            }
            while count < most && !source.is_full() && source.transfer() {
                count = count.saturating_add(1);
            }
            // A read as well as a write: it sees what a pump that came meanwhile, and returned, had seen.
            self.is_pumping.swap(false, Ordering::AcqRel);
            if !source.has_message() {
                return count > 0;
            }
            if count >= most || source.is_full() {
                self.is_stalled.swap(true, Ordering::AcqRel);
                // Even where none was moved: the inbox may have been drained just ahead of the store.
                return true;
            }
        }
        self.is_stalled.swap(true, Ordering::AcqRel);
        true
    }

    /// Whether a message was left in the slot since the last call: then the caller pumps.
    pub fn take_stall(&self) -> bool {
        self.is_stalled.swap(false, Ordering::AcqRel)
    }
}
