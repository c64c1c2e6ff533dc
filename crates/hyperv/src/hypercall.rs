//! The hypercalls that VMBus is made of.

use crate::{HvStatus, Hypervisor};
use core::sync::atomic::{AtomicU32, Ordering};
use hyperv_bindings::tlfs::{HV_MESSAGE_PAYLOAD, HvHypercallCode, HvHypercallFlags, HvMessageType};
use paravirt_platform::{DmaRegion, Platform};

/// Bytes of a message, at most.
pub const MAX_MESSAGE: usize = HV_MESSAGE_PAYLOAD as usize;
/// Where the payload is in the input of HvCallPostMessage.
const PAYLOAD: usize = 16;

impl<P: Platform> Hypervisor<P> {
    /// One call; the status, and nothing else of what it returns.
    ///
    /// # Safety
    ///
    /// The call with these arguments keeps memory safe.
    unsafe fn call(&self, control: u64, input: u64, output: u64) -> HvStatus {
        // SAFETY: the page is enabled as long as this exists; the rest is passed on from the caller.
        HvStatus(unsafe { self.platform().hyperv().hypercall(self.page(), control, input, output) } as u16)
    }

    /// HvCallPostMessage, once: the message is built in `input`, a page that nobody else uses meanwhile.
    ///
    /// # Errors
    ///
    /// The status. [`HvStatus::INSUFFICIENT_BUFFERS`] and a few others ask for another try: see
    /// [`wants_another_try`](Self::wants_another_try). A message longer than [`MAX_MESSAGE`] is
    /// [`HvStatus::INVALID_PARAMETER`], and not sent.
    ///
    /// TLFS §11.10.1
    pub fn post_message(
        &self,
        input: &DmaRegion<P>,
        connection_id: u32,
        message: &[u8],
    ) -> Result<(), HvStatus> {
        let len = u32::try_from(message.len()).ok().filter(|len| *len <= HV_MESSAGE_PAYLOAD);
        let len = len.ok_or(HvStatus::INVALID_PARAMETER)?;
        for (i, word) in [connection_id, 0, HvMessageType::CHANNEL.0, len].into_iter().enumerate() {
            if let Some(to) = input.shared().at::<AtomicU32>(i.wrapping_mul(4)) {
                to.store(word, Ordering::Relaxed);
            }
        }
        input.shared().copy_in(PAYLOAD, message).ok_or(HvStatus::INVALID_PARAMETER)?;
        // SAFETY: the hypervisor reads the message.
        status(unsafe { self.call(u64::from(HvHypercallCode::POST_MESSAGE.0), input.bus().0, 0) })
    }

    /// HvCallSignalEvent, in registers.
    ///
    /// # Errors
    ///
    /// The status: the connection is not there, or its receiver is not.
    ///
    /// TLFS §11.10.2
    #[inline]
    pub fn signal_event(&self, connection_id: u32) -> Result<(), HvStatus> {
        let control = u64::from(HvHypercallCode::SIGNAL_EVENT.0) | HvHypercallFlags::FAST.bits();
        // SAFETY: the call has no memory of the guest's for an argument.
        status(unsafe { self.call(control, u64::from(connection_id), 0) })
    }

    /// Whether a message that was refused with this status may be taken at another try.
    pub fn wants_another_try(status: HvStatus) -> bool {
        [HvStatus::INSUFFICIENT_BUFFERS, HvStatus::INSUFFICIENT_MEMORY, HvStatus::TIMEOUT].contains(&status)
    }
}

fn status(status: HvStatus) -> Result<(), HvStatus> {
    if status == HvStatus::SUCCESS { Ok(()) } else { Err(status) }
}
