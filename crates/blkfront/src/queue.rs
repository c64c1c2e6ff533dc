//! A queue of a disk as its owner uses it.

use crate::class::BlockClass;
pub use crate::ring::Ring;
use core::fmt;
use core::mem::ManuallyDrop;
use core::task::Waker;
use paravirt_device::{Arm, BlockQueue, Completion, Fault, Notify, Op, Refused, Request};
use paravirt_platform::{DmaBuffer, Instant, PageArc, Platform};
use paravirt_xen::{Device, InFlight, SlotBox};

/// A queue of a disk.
pub struct BlkFrontQueue<P: Platform, B: DmaBuffer> {
    slot: ManuallyDrop<SlotBox<P, Ring<P, B>>>,
    device: PageArc<P, Device<P, BlockClass<P, B>>>,
    /// The gate of the device at which the queue was last in service.
    gate: u32,
    /// For the event channel after the next reset.
    waker: Option<Waker>,
}

impl<P: Platform, B: DmaBuffer> BlkFrontQueue<P, B> {
    pub(crate) fn new(
        device: &PageArc<P, Device<P, BlockClass<P, B>>>,
        slot: SlotBox<P, Ring<P, B>>,
    ) -> Self {
        // Not a gate of a device in service: the first call looks.
        Self { slot: ManuallyDrop::new(slot), device: device.clone(), gate: 1, waker: None }
    }

    #[inline(always)]
    fn is_open(&self) -> bool {
        self.device.gate() == self.gate
    }

    /// Brings the queue to the state of the device.
    #[cold]
    fn sync(&mut self) -> Result<(), Fault> {
        self.gate = self.device.sync(&mut self.slot)?;
        if let (Some(waker), Some(port)) = (&self.waker, self.slot.queue.port()) {
            port.register(waker);
        }
        Ok(())
    }

    /// The backend has broken the rules: the device is reset, with what is in flight aborted.
    #[cold]
    fn fail(&mut self, fault: Fault) -> Result<Option<Completion<B>>, Fault> {
        log::warn!("blkfront: {fault}: resetting the disk");
        self.device.reset(self.gate, Fault::Reset, InFlight::Abort);
        self.complete_slow()
    }

    #[cold]
    fn complete_slow(&mut self) -> Result<Option<Completion<B>>, Fault> {
        let synced = if self.is_open() { Ok(()) } else { self.sync() };
        match self.slot.queue.next() {
            Ok(Some(done)) => Ok(Some(done)),
            Ok(None) => synced.map(|()| None),
            Err(_) if self.is_open() => {
                self.device.reset(self.gate, Fault::Reset, InFlight::Abort);
                Err(Fault::Reset)
            }
            Err(_) => synced.map(|()| None),
        }
    }
}

impl<P: Platform, B: DmaBuffer> Notify for BlkFrontQueue<P, B> {
    fn arm(&mut self) -> Arm {
        if !self.is_open() {
            return match self.sync() {
                Ok(()) => Arm::Pending,
                // The restart of the device wakes the task.
                Err(Fault::Reset) => Arm::Armed,
                Err(_) => Arm::Pending,
            };
        }
        self.slot.queue.arm()
    }

    fn disarm(&mut self) {
        self.slot.queue.port().into_iter().for_each(|port| port.disarm());
    }

    fn register(&mut self, waker: &Waker) {
        self.device.register(self.slot.index, waker);
        self.slot.queue.port().into_iter().for_each(|port| port.register(waker));
        if !self.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            self.waker = Some(waker.clone());
        }
    }

    fn next_deadline(&self) -> Instant {
        self.slot.queue.next_deadline()
    }

    fn expire(&mut self, now: Instant) -> Result<(), Fault> {
        if !self.is_open() || !self.slot.queue.has_expired(now) {
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
        if !self.is_open() {
            if let Err(fault) = self.sync() {
                return refused(fault.into(), tag, op, deadline);
            }
        }
        let queue = &mut self.slot.queue;
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
        if self.is_open() {
            self.slot.queue.kick();
        }
    }

    #[inline]
    fn complete(&mut self) -> Result<Option<Completion<B>>, Fault> {
        if !self.is_open() {
            return self.complete_slow();
        }
        match self.slot.queue.next() {
            Ok(done) => Ok(done),
            Err(fault) => self.fail(fault),
        }
    }

    /// Closes the disk and connects it again when every queue has been drained. Blocks for the backend.
    fn reset(&mut self) -> Result<(), Fault> {
        if !self.is_open() {
            // One that waits for this queue goes on.
            return self.sync();
        }
        self.device.reset(self.gate, Fault::Reset, InFlight::Abort);
        match self.sync() {
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

impl<P: Platform, B: DmaBuffer> Drop for BlkFrontQueue<P, B> {
    /// What is in flight is dropped when the disk is closed.
    fn drop(&mut self) {
        self.disarm();
        // SAFETY: it is taken once, here, and not used after.
        let slot = unsafe { ManuallyDrop::take(&mut self.slot) };
        self.device.put_back(slot);
    }
}

impl<P: Platform, B: DmaBuffer> fmt::Debug for BlkFrontQueue<P, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlkFrontQueue").field("slot", &**self.slot).finish_non_exhaustive()
    }
}
