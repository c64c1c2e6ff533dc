//! The message page and the event flags page of a virtual processor's SynIC. TLFS §11.8, §11.9

use crate::Memory;
use hyperv_bindings::tlfs::{HV_EVENT_FLAGS, HV_SLOT_LEN, HvMessage, HvMessageFlags, HvMessageType};
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering, fence};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, VolatileMemory};
use zerocopy::IntoBytes;

/// Writes a message to the slot of source `sint` in the message page at `page`; returns whether the slot was free. If it is not, its
/// pending flag is set, so that the guest writes end-of-message, and the slot is checked again.
pub fn put_message(memory: &Memory, page: u64, sint: u32, message: &HvMessage) -> bool {
    let at = GuestAddress(page + u64::from(sint * HV_SLOT_LEN));
    let slot = memory.checked(memory.map().get_slice(at, HV_SLOT_LEN as usize));
    let Some(slot) = slot else { return false };
    let (Ok(kind), Ok(flags)) = (slot.get_atomic_ref::<AtomicU32>(0), slot.get_atomic_ref::<AtomicU8>(5))
    else {
        return false;
    };
    let is_free = || kind.load(Ordering::Acquire) == HvMessageType::NONE.0;
    if !is_free() {
        flags.fetch_or(HvMessageFlags::PENDING.bits(), Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if !is_free() {
            return false;
        }
    }
    memory.checked(slot.write_slice(&message.as_bytes()[4..], 4));
    kind.store(message.header.message_type.0, Ordering::Release);
    true
}

/// Sets an event flag of source `sint` in the event page at `page`; returns whether it was clear. A source has 2048 flags; a flag out
/// of range is ignored.
pub fn set_event(memory: &Memory, page: u64, sint: u32, flag: u32) -> bool {
    if flag >= HV_EVENT_FLAGS {
        return false;
    }
    let at = page + u64::from(sint * HV_SLOT_LEN) + u64::from(flag / 64 * 8);
    let bit = 1 << (flag % 64);
    memory.set_bits(at, bit).is_some_and(|before| before & bit == 0)
}
