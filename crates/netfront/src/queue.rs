//! A pair of queues as its owner uses it.

use crate::class::{NetClass, Pair};
use crate::rx::NetFrontRx;
use crate::tx::NetFrontTx;
use core::fmt;
use core::mem::ManuallyDrop;
use core::task::Waker;
use paravirt_device::{Arm, Fault, NetQueue, Notify};
use paravirt_platform::{DmaBuffer, Instant, PageArc, Platform};
use paravirt_xen::{Device, InFlight, SlotBox};

/// A pair of queues of a card.
pub struct NetFrontQueue<P: Platform, B: DmaBuffer> {
    slot: ManuallyDrop<SlotBox<P, Pair<P, B>>>,
    device: PageArc<P, Device<P, NetClass<P, B>>>,
    /// The gate of the device at which the pair was last in service.
    gate: u32,
    /// For the event channel after the next reset.
    waker: Option<Waker>,
    platform: P,
}

impl<P: Platform, B: DmaBuffer> NetFrontQueue<P, B> {
    pub(crate) fn new(
        platform: &P,
        device: &PageArc<P, Device<P, NetClass<P, B>>>,
        slot: SlotBox<P, Pair<P, B>>,
    ) -> Self {
        // Not a gate of a device in service: the first call looks.
        let slot = ManuallyDrop::new(slot);
        Self { slot, device: device.clone(), gate: 1, waker: None, platform: platform.clone() }
    }

    #[inline(always)]
    fn is_open(&self) -> bool {
        self.device.gate() == self.gate
    }

    /// Brings the pair to the state of the device; returns whether that is in service, or waits for other pairs.
    #[cold]
    fn sync(&mut self) -> Result<bool, Fault> {
        match self.device.sync(&mut self.slot) {
            Ok(gate) => {
                self.gate = gate;
                self.register_port();
                Ok(true)
            }
            Err(Fault::Reset) => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    fn register_port(&self) {
        let Pair { rx, tx } = &self.slot.queue;
        if let Some(waker) = &self.waker {
            rx.port().into_iter().chain(tx.port()).for_each(|port| port.register(waker));
        }
    }
}

impl<P: Platform, B: DmaBuffer> Notify for NetFrontQueue<P, B> {
    fn arm(&mut self) -> Arm {
        if !self.is_open() {
            return match self.sync() {
                // The restart of the card wakes the task.
                Ok(false) => Arm::Armed,
                _ => Arm::Pending,
            };
        }
        let Pair { rx, tx } = &mut self.slot.queue;
        let is_in_flight = tx.used() > 0;
        let now = if is_in_flight { self.platform.now() } else { Instant::ZERO };
        tx.watchdog.arm(is_in_flight, now);
        rx.arm().and(tx.arm())
    }

    fn disarm(&mut self) {
        let Pair { rx, tx } = &self.slot.queue;
        rx.port().into_iter().chain(tx.port()).for_each(|port| port.disarm());
    }

    fn register(&mut self, waker: &Waker) {
        self.device.register(self.slot.index, waker);
        if !self.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            self.waker = Some(waker.clone());
        }
        self.register_port();
    }

    fn next_deadline(&self) -> Instant {
        self.slot.queue.tx.watchdog.deadline()
    }

    fn expire(&mut self, now: Instant) -> Result<(), Fault> {
        if !self.is_open() {
            return Ok(());
        }
        let polled = self.slot.queue.tx.poll();
        let is_in_flight = self.slot.queue.tx.used() > 0;
        if polled.is_ok() && !self.slot.queue.tx.watchdog.has_expired(is_in_flight, now) {
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
        if !self.is_open() && !self.sync()? {
            return Ok(());
        }
        let Pair { rx, tx } = &mut self.slot.queue;
        match tx.poll().and_then(|()| rx.poll()) {
            Ok(()) => Ok(()),
            Err(fault) => {
                log::warn!("netfront: {fault}: resetting the card");
                self.reset()
            }
        }
    }

    fn split(&mut self) -> (&mut NetFrontRx<P>, &mut NetFrontTx<P, B>) {
        let Pair { rx, tx } = &mut self.slot.queue;
        (rx, tx)
    }

    fn tx(&self) -> &NetFrontTx<P, B> {
        &self.slot.queue.tx
    }

    /// Closes the card and connects it again when every pair has been drained. Blocks for the backend.
    fn reset(&mut self) -> Result<(), Fault> {
        self.device.reset(self.device.gate(), Fault::Reset, InFlight::Abort);
        self.sync().map(drop)
    }
}

impl<P: Platform, B: DmaBuffer> Drop for NetFrontQueue<P, B> {
    /// The card goes on with the pair, which has no owner then; what is in flight is dropped when the card is closed.
    fn drop(&mut self) {
        self.disarm();
        // SAFETY: it is taken once, here, and not used after.
        let slot = unsafe { ManuallyDrop::take(&mut self.slot) };
        self.device.put_back(slot);
    }
}

impl<P: Platform, B: DmaBuffer> fmt::Debug for NetFrontQueue<P, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetFrontQueue").field("slot", &**self.slot).finish_non_exhaustive()
    }
}
