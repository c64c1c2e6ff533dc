//! What a reply means for the command that it is to.

use crate::command::{Data, Stage};
use crate::slot::Slot;
use crate::state::ControllerState;
use crate::transport::{Address, Status};
use crate::{Attention, Cdb, Disposition};
use core::time::Duration;
use paravirt_device::IoError;
use paravirt_platform::{Instant, Platform};

/// How often a command is retried after a unit attention.
const MAX_ATTENTIONS: u8 = 5;
/// How often a command is retried after BUSY.
const MAX_RETRIES: u8 = 100;
/// How long after BUSY, and after a port that is full.
pub(crate) const RETRY_DELAY: Duration = Duration::from_millis(20);

/// What becomes of a command after a reply.
pub(crate) enum Outcome {
    Finish(Result<(), IoError>),
    RetryAt(Instant),
}

/// What becomes of a command after a reply that is more than a plain success.
pub(crate) fn outcome<P: Platform, B>(
    slot: &mut Slot<B>,
    state: &ControllerState<P>,
    owner: u16,
    address: Address,
    status: Status,
) -> Outcome {
    let later = |slot: &mut Slot<B>| {
        slot.retries = slot.retries.saturating_add(1);
        match slot.retries <= MAX_RETRIES {
            true => Outcome::RetryAt(state.now().saturating_add(RETRY_DELAY)),
            false => Outcome::Finish(Err(IoError::Device)),
        }
    };
    let disposition = match status {
        Status::Good => Disposition::Done,
        Status::Check(Some(sense)) => sense.disposition(),
        Status::Check(None) | Status::Error => Disposition::Failed(IoError::Device),
        Status::Busy => return later(slot),
        Status::NoUnit => {
            slot.is_absent = true;
            state.unit_gone(owner, address);
            Disposition::Failed(IoError::Aborted)
        }
        Status::Aborted => Disposition::Failed(IoError::Aborted),
    };
    match disposition {
        Disposition::Done if slot.len > 0 && slot.transferred != slot.len => {
            Outcome::Finish(Err(IoError::Device))
        }
        Disposition::Done if slot.stage == Stage::FlushBehind => {
            // The same slot carries the flush, and keeps the buffer.
            slot.stage = Stage::Last;
            slot.data = match core::mem::replace(&mut slot.data, Data::None) {
                Data::Buffer(buffer, _) => Data::Held(buffer),
                data => data,
            };
            (slot.cdb, slot.len) = (Cdb::synchronize_cache(), 0);
            Outcome::RetryAt(Instant::ZERO)
        }
        Disposition::Done => Outcome::Finish(Ok(())),
        Disposition::Retry(Attention::NotReady) => later(slot),
        Disposition::Retry(attention) => {
            match attention {
                Attention::Unit => state.unit_changed(owner),
                Attention::Inventory => state.request_scan(),
                _ => {}
            }
            slot.attentions = slot.attentions.saturating_add(1);
            match slot.attentions <= MAX_ATTENTIONS {
                true => Outcome::RetryAt(Instant::ZERO),
                false => Outcome::Finish(Err(IoError::Device)),
            }
        }
        Disposition::Failed(error) => {
            if error == IoError::ReadOnly {
                state.unit_changed(owner);
            }
            Outcome::Finish(Err(error))
        }
    }
}
