//! Whether a device is in service.

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use paravirt_device::Fault;

/// Whether a device is in service: what its queues look at without a lock.
#[derive(Debug)]
pub struct Status {
    /// Counts transitions: even while the device is in service. A queue that is at the current value may go on.
    pub(super) gate: AtomicU32,
    /// Why it is out of service, by [`Fault::code`].
    pub(super) fault: AtomicU8,
    /// Whether the guest was resumed in another domain, which the device has not seen yet.
    pub(super) was_resumed: AtomicBool,
}

impl Status {
    pub(super) const fn new() -> Self {
        Self {
            gate: AtomicU32::new(1),
            fault: AtomicU8::new(Fault::Reset.code()),
            was_resumed: AtomicBool::new(false),
        }
    }

    /// Takes the device out of service, as the guest was resumed in another domain.
    pub(crate) fn resume(&self) {
        self.was_resumed.store(true, Ordering::Release);
        let gate = self.gate.load(Ordering::Relaxed);
        if is_open(gate) {
            self.fault.store(Fault::Reset.code(), Ordering::Release);
            self.gate.store(gate.wrapping_add(1), Ordering::Release);
        }
    }

    /// The gate.
    #[inline(always)]
    pub fn gate(&self) -> u32 {
        self.gate.load(Ordering::Acquire)
    }

    /// Returns the fault that keeps the device out of service.
    pub fn fault(&self) -> Option<Fault> {
        (!is_open(self.gate())).then(|| Fault::from_code(self.fault.load(Ordering::Acquire)))
    }
}

#[inline(always)]
pub(super) const fn is_open(gate: u32) -> bool {
    gate & 1 == 0
}
