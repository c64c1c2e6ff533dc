//! The hypercalls that VMBus uses.

use crate::{HvStatus, Hypervisor};
use core::sync::atomic::{AtomicU32, Ordering};
use hyperv_bindings::tlfs::{HV_MESSAGE_PAYLOAD, HvHypercallCode, HvHypercallFlags, HvMessageType};
use paravirt_platform::{DmaRegion, Platform};

/// Maximum length of a message in bytes. TLFS §11.10.1
pub const MAX_MESSAGE: usize = HV_MESSAGE_PAYLOAD as usize;
/// The offset of the payload in the input of HvCallPostMessage.
const PAYLOAD: usize = 16;

impl<P: Platform> Hypervisor<P> {
    /// Makes a hypercall; returns its status.
    ///
    /// # Safety
    ///
    /// The call with these arguments does not violate memory safety.
    unsafe fn call(&self, control: u64, input: u64, output: u64) -> HvStatus {
        // SAFETY: the page is enabled from `open` to `drop`, and by the contract of this function the call is safe.
        HvStatus(unsafe { self.platform().hyperv().hypercall(self.page(), control, input, output) } as u16)
    }

    /// Posts a message by HvCallPostMessage, without a retry. `input` is a page for the hypercall's input, which no other call uses at
    /// the same time.
    ///
    /// # Errors
    ///
    /// The status of the hypercall; [`wants_another_try`](Self::wants_another_try) tells whether to retry. A message longer than
    /// [`MAX_MESSAGE`] is [`HvStatus::INVALID_PARAMETER`], and not sent.
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
        // SAFETY: the hypervisor only reads the input, which `DmaRegion` keeps during the call.
        status(unsafe { self.call(u64::from(HvHypercallCode::POST_MESSAGE.0), input.bus().0, 0) })
    }

    /// Signals an event by HvCallSignalEvent, with its input in registers.
    ///
    /// # Errors
    ///
    /// The status of the hypercall, if the connection or its receiver does not exist.
    ///
    /// TLFS §11.10.2
    #[inline]
    pub fn signal_event(&self, connection_id: u32) -> Result<(), HvStatus> {
        let control = u64::from(HvHypercallCode::SIGNAL_EVENT.0) | HvHypercallFlags::FAST.bits();
        // SAFETY: the hypercall accesses no memory: its input is in registers, and it has no output.
        status(unsafe { self.call(control, u64::from(connection_id), 0) })
    }

    /// Returns whether a message that failed with `status` should be posted again later.
    pub fn wants_another_try(status: HvStatus) -> bool {
        [HvStatus::INSUFFICIENT_BUFFERS, HvStatus::INSUFFICIENT_MEMORY, HvStatus::TIMEOUT].contains(&status)
    }
}

fn status(status: HvStatus) -> Result<(), HvStatus> {
    if status == HvStatus::SUCCESS { Ok(()) } else { Err(status) }
}
