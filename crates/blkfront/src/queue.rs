//! A queue of a disk as its owner uses it.

use crate::class::BlockClass;
use core::fmt;
use core::task::Waker;
use paravirt_device::{Arm, BlockQueue, Completion, Fault, Notify, Op, Refused, Request};
use paravirt_platform::{DmaBuffer, Instant, Platform};
use paravirt_xen::{InFlight, OwnedQueue};

/// A queue of a disk. When it is dropped, what is in flight is dropped as the disk is closed.
pub struct BlkFrontQueue<P: Platform, B: DmaBuffer> {
    owned: OwnedQueue<P, BlockClass<P, B>>,
}

impl<P: Platform, B: DmaBuffer> BlkFrontQueue<P, B> {
    pub(crate) fn new(owned: OwnedQueue<P, BlockClass<P, B>>) -> Self {
        Self { owned }
    }

    /// The backend has broken the rules: the device is reset, with what is in flight aborted.
    #[cold]
    fn fail(&mut self, fault: Fault) -> Result<Option<Completion<B>>, Fault> {
        log::warn!("blkfront: {fault}: resetting the disk");
        self.owned.device().reset(self.owned.gate(), Fault::Reset, InFlight::Abort);
        self.complete_slow()
    }

    #[cold]
    fn complete_slow(&mut self) -> Result<Option<Completion<B>>, Fault> {
        let synced = if self.owned.is_open() { Ok(()) } else { self.owned.sync() };
        match self.owned.queue_mut().next() {
            Ok(Some(done)) => Ok(Some(done)),
            Ok(None) => synced.map(|()| None),
            Err(fault) if self.owned.is_open() => {
                log::warn!("blkfront: {fault}: resetting the disk");
                self.owned.device().reset(self.owned.gate(), Fault::Reset, InFlight::Abort);
                Err(Fault::Reset)
            }
            Err(_) => synced.map(|()| None),
        }
    }
}

impl<P: Platform, B: DmaBuffer> Notify for BlkFrontQueue<P, B> {
    fn arm(&mut self) -> Arm {
        if !self.owned.is_open() {
            return match self.owned.sync() {
                Ok(()) => Arm::Pending,
                // The restart of the device wakes the task.
                Err(Fault::Reset) => Arm::Armed,
                Err(_) => Arm::Pending,
            };
        }
        self.owned.queue_mut().arm()
    }

    fn disarm(&mut self) {
        self.owned.disarm();
    }

    fn register(&mut self, waker: &Waker) {
        self.owned.register(waker);
    }

    fn next_deadline(&self) -> Instant {
        self.owned.queue().next_deadline()
    }

    fn expire(&mut self, now: Instant) -> Result<(), Fault> {
        if !self.owned.is_open() || !self.owned.queue_mut().has_expired(now) {
            return Ok(());
        }
        log::warn!("blkfront: a request took too long: resetting the disk");
        self.reset()
    }
}

impl<P: Platform, B: DmaBuffer> BlockQueue for BlkFrontQueue<P, B> {
    type Buffer = B;

    #[inline]
    fn submit(&mut self, request: Request<B>) -> Result<(), Refused<B>> {
        let Request { tag, op, deadline, .. } = request;
        if !self.owned.is_open() {
            if let Err(fault) = self.owned.sync() {
                return refused(fault.into(), tag, op, deadline);
            }
        }
        let queue = self.owned.queue_mut();
        match op {
            Op::Read { lba, into } => match queue.transfer(lba, None, into, tag, deadline) {
                Ok(()) => Ok(()),
                Err((reason, into)) => refused(reason, tag, Op::Read { lba, into }, deadline),
            },
            Op::Write { lba, from, durability } => {
                match queue.transfer(lba, Some(durability), from, tag, deadline) {
                    Ok(()) => Ok(()),
                    Err((reason, from)) => {
                        refused(reason, tag, Op::Write { lba, from, durability }, deadline)
                    }
                }
            }
            op => match queue.command(&op, tag, deadline) {
                Ok(()) => Ok(()),
                Err(reason) => refused(reason, tag, op, deadline),
            },
        }
    }

    #[inline]
    fn kick(&mut self) {
        if self.owned.is_open() {
            self.owned.queue_mut().kick();
        }
    }

    #[inline]
    fn complete(&mut self) -> Result<Option<Completion<B>>, Fault> {
        if !self.owned.is_open() {
            return self.complete_slow();
        }
        match self.owned.queue_mut().next() {
            Ok(done) => Ok(done),
            Err(fault) => self.fail(fault),
        }
    }

    /// Closes the disk and connects it again when every queue has been drained. Blocks for the backend.
    fn reset(&mut self) -> Result<(), Fault> {
        if !self.owned.is_open() {
            // One that waits for this queue goes on.
            return self.owned.sync();
        }
        self.owned.device().reset(self.owned.gate(), Fault::Reset, InFlight::Abort);
        match self.owned.sync() {
            Err(Fault::Reset) => Ok(()),
            synced => synced,
        }
    }
}

#[cold]
#[allow(clippy::result_large_err, reason = "the error carries the request back: that is its point")]
fn refused<B>(
    reason: paravirt_device::Rejected,
    tag: u64,
    op: Op<B>,
    deadline: Instant,
) -> Result<(), Refused<B>> {
    Err(Refused::new(reason, Request::new(tag, op).with_deadline(deadline)))
}

impl<P: Platform, B: DmaBuffer> fmt::Debug for BlkFrontQueue<P, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlkFrontQueue").field("owned", &self.owned).finish_non_exhaustive()
    }
}
