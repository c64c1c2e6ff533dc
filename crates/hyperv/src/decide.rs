//! The decision of a message slot that hangs on memory order: to tell the hypervisor that the slot is free, or not.
//!
//! It is written over what it looks at, so that the very same code runs on a message page and under loom.

/// A slot of the message page, as far as freeing it goes.
pub trait Slot {
    /// Writes "no message" as the type.
    fn clear(&self);
    /// A full fence: the flag is not read before the type is seen.
    fn full_fence();
    /// Whether the hypervisor says that another message waits for the slot.
    fn is_pending(&self) -> bool;
}

/// Frees the slot; whether end-of-message has to be written, since another message waits.
///
/// The hypervisor marks the slot and then looks whether it has become free; this frees it and then looks whether it was
/// marked. With a full fence on each side, at least one of the two sees the other. TLFS §11.9
#[must_use]
pub fn free_then_look<S: Slot>(slot: &S) -> bool {
    slot.clear();
    S::full_fence();
    slot.is_pending()
}
