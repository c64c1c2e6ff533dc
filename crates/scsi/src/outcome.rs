//! What a reply means for the command that it is to.

use crate::command::{Data, Stage};
use crate::owner::CONTROLLER;
use crate::slot::Slot;
use crate::state::ControllerState;
use crate::transport::{Address, Status};
use crate::{Attention, Cdb, Disposition};
use core::time::Duration;
use paravirt_device::IoError;
use paravirt_platform::{Instant, Platform};

/// How often a command is retried after a unit attention.
const MAX_ATTENTIONS: u8 = 5;
/// How often a command is retried after a status that passes: with the pauses of [`pause`], three minutes long. A deadline of the
/// command's own ends that earlier.
const MAX_RETRIES: u8 = 145;
/// How often a command of the controller's own is retried after an error that the target did not explain: identification goes on
/// without the answer.
const MAX_UNEXPLAINED: u8 = 3;
/// How long before a port that is full is tried again.
pub(crate) const RETRY_DELAY: Duration = Duration::from_millis(20);

/// The pause before a retry: 20 milliseconds, doubled each time, up to 1.28 seconds.
fn pause(retries: u8) -> Duration {
    RETRY_DELAY.saturating_mul(1 << retries.min(6))
}

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
    let is_own = owner == CONTROLLER;
    let later = |slot: &mut Slot<B>, most: u8| {
        let at = state.now().saturating_add(pause(slot.retries));
        slot.retries = slot.retries.saturating_add(1);
        match slot.retries <= most && at < slot.deadline {
            true => Outcome::RetryAt(at),
            false => Outcome::Finish(Err(IoError::Device)),
        }
    };
    let unexplained = if is_own { MAX_UNEXPLAINED } else { MAX_RETRIES };
    let disposition = match status {
        Status::Good => Disposition::Done,
        Status::Check(Some(sense)) => sense.disposition(),
        Status::Refused => Disposition::Failed(IoError::Device),
        Status::Busy => return later(slot, MAX_RETRIES),
        Status::Check(None) | Status::Error => return later(slot, unexplained),
        Status::NoPath if !is_own => {
            // Only a scan shows whether the unit is gone, or the path to it has failed for a while.
            state.request_scan();
            return later(slot, MAX_RETRIES);
        }
        Status::NoUnit | Status::NoPath => {
            slot.is_absent = true;
            state.unit_gone(owner, address);
            Disposition::Failed(IoError::Aborted)
        }
        // By another initiator's reset, where the controller has begun none.
        Status::Aborted if !is_own && state.is_running() => return later(slot, MAX_RETRIES),
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
        Disposition::Retry(Attention::NotReady) => later(slot, MAX_RETRIES),
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
            // Old hosts have the reads and writes of 10 bytes only, for USB disks and disks that are passed through.
            let shortened = slot.cdb.shortened().filter(|_| error == IoError::Unsupported && !is_own);
            if let Some(cdb) = shortened {
                state.unit_is_short(owner);
                slot.cdb = cdb;
                return Outcome::RetryAt(Instant::ZERO);
            }
            if error == IoError::ReadOnly {
                state.unit_changed(owner);
            }
            Outcome::Finish(Err(error))
        }
    }
}
