//! The decision whether to notify the hypervisor that a message slot is free, which depends on memory order.
//!
//! It is generic over the slot, so that the same code runs on a message page and under loom.

/// The operations on a message slot that freeing it needs.
pub trait Slot {
    /// Writes "no message" as the type.
    fn clear(&self);
    /// A full fence: the flag is not read before the type is visible to the hypervisor.
    fn full_fence();
    /// Returns whether the hypervisor has flagged that another message waits for the slot.
    fn is_pending(&self) -> bool;
}

/// Frees the slot; returns whether end-of-message has to be written, since another message waits.
///
/// The hypervisor flags the slot and then checks whether it has become free; this function frees it and then checks the flag. With a
/// full fence on each side, at least one of the two sees the other's write. TLFS §11.9
#[must_use]
pub fn free_then_look<S: Slot>(slot: &S) -> bool {
    slot.clear();
    S::full_fence();
    slot.is_pending()
}
