//! A pair of queues as its owner uses it.

use crate::class::{NetClass, Pair};
use crate::rx::NetFrontRx;
use crate::tx::NetFrontTx;
use core::fmt;
use core::task::Waker;
use paravirt_device::{Arm, Fault, NetQueue, Notify};
use paravirt_platform::{DmaBuffer, Instant, Platform};
use paravirt_xen::{InFlight, OwnedQueue};

/// A pair of queues of a card. When it is dropped, the card goes on with the pair, which has no owner then; what is in flight is dropped
/// when the card is closed.
pub struct NetFrontQueue<P: Platform, B: DmaBuffer> {
    owned: OwnedQueue<P, NetClass<P, B>>,
    platform: P,
}

impl<P: Platform, B: DmaBuffer> NetFrontQueue<P, B> {
    pub(crate) fn new(platform: &P, owned: OwnedQueue<P, NetClass<P, B>>) -> Self {
        Self { owned, platform: platform.clone() }
    }

    /// Brings the pair to the state of the device; returns whether that is in service, or waits for other pairs.
    #[cold]
    fn sync(&mut self) -> Result<bool, Fault> {
        match self.owned.sync() {
            Ok(()) => Ok(true),
            Err(Fault::Reset) => Ok(false),
            Err(fault) => Err(fault),
        }
    }
}

impl<P: Platform, B: DmaBuffer> Notify for NetFrontQueue<P, B> {
    fn arm(&mut self) -> Arm {
        if !self.owned.is_open() {
            return match self.sync() {
                // The restart of the card wakes the task.
                Ok(false) => Arm::Armed,
                _ => Arm::Pending,
            };
        }
        let Pair { rx, tx, .. } = self.owned.queue_mut();
        let is_in_flight = tx.used() > 0;
        let now = if is_in_flight { self.platform.now() } else { Instant::ZERO };
        tx.watchdog.arm(is_in_flight, now);
        rx.arm().and(tx.arm())
    }

    fn disarm(&mut self) {
        self.owned.disarm();
    }

    fn register(&mut self, waker: &Waker) {
        self.owned.register(waker);
    }

    fn next_deadline(&self) -> Instant {
        self.owned.queue().tx.watchdog.deadline()
    }

    fn expire(&mut self, now: Instant) -> Result<(), Fault> {
        if !self.owned.is_open() {
            return Ok(());
        }
        let tx = &mut self.owned.queue_mut().tx;
        let polled = tx.poll();
        let is_in_flight = tx.used() > 0;
        if polled.is_ok() && !tx.watchdog.has_expired(is_in_flight, now) {
            return Ok(());
        }
        log::warn!("netfront: no frame was sent for too long: resetting the card");
        self.reset()
    }
}

impl<P: Platform, B: DmaBuffer> NetQueue for NetFrontQueue<P, B> {
    type Rx = NetFrontRx<P>;
    type Tx = NetFrontTx<P, B>;

    #[inline]
    fn poll(&mut self) -> Result<(), Fault> {
        if !self.owned.is_open() && !self.sync()? {
            return Ok(());
        }
        let Pair { rx, tx, .. } = self.owned.queue_mut();
        match tx.poll().and_then(|()| rx.poll()) {
            Ok(()) => Ok(()),
            Err(fault) => {
                log::warn!("netfront: {fault}: resetting the card");
                self.reset()
            }
        }
    }

    fn split(&mut self) -> (&mut NetFrontRx<P>, &mut NetFrontTx<P, B>) {
        let Pair { rx, tx, .. } = self.owned.queue_mut();
        (rx, tx)
    }

    fn tx(&self) -> &NetFrontTx<P, B> {
        &self.owned.queue().tx
    }

    /// Closes the card and connects it again when every pair has been drained. Blocks for the backend.
    fn reset(&mut self) -> Result<(), Fault> {
        let device = self.owned.device();
        device.reset(device.gate(), Fault::Reset, InFlight::Abort);
        self.sync().map(drop)
    }
}

impl<P: Platform, B: DmaBuffer> fmt::Debug for NetFrontQueue<P, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetFrontQueue").field("owned", &self.owned).finish_non_exhaustive()
    }
}
