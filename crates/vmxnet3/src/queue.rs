//! A pair of queues as its owner uses it.

use crate::control::{Control, Pair, PairBox};
use crate::rx::Vmxnet3Rx;
use crate::tx::Vmxnet3Tx;
use core::fmt;
use core::mem::ManuallyDrop;
use core::task::Waker;
use paravirt_device::{Arm, Fault, NetQueue, Notify};
use paravirt_platform::{DmaBuffer, Instant, PageArc, Platform};

/// A pair of queues of a card.
pub struct Vmxnet3Queue<P: Platform, B: DmaBuffer> {
    pair: ManuallyDrop<PairBox<P, B>>,
    control: PageArc<P, Control<P, B>>,
    /// The gate of the card at which the pair was last in service.
    gate: u32,
    platform: P,
}

impl<P: Platform, B: DmaBuffer> Vmxnet3Queue<P, B> {
    pub(crate) fn new(platform: &P, control: &PageArc<P, Control<P, B>>, pair: PairBox<P, B>) -> Self {
        // Not a gate of a card in service: the first call looks.
        Self { pair: ManuallyDrop::new(pair), control: control.clone(), gate: 1, platform: platform.clone() }
    }

    /// Brings the pair to the state of the card; returns whether the card is in service, or waits for other pairs.
    #[cold]
    fn sync(&mut self) -> Result<bool, Fault> {
        match self.control.sync(&mut self.pair) {
            Ok(gate) => {
                self.gate = gate;
                Ok(true)
            }
            Err(Fault::Reset) => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    #[inline(always)]
    fn is_open(&self) -> bool {
        self.control.card.gate() == self.gate
    }
}

impl<P: Platform, B: DmaBuffer> Notify for Vmxnet3Queue<P, B> {
    fn arm(&mut self) -> Arm {
        if self.control.card.registers.device().is_gone() {
            self.control.reset(self.control.card.gate(), Fault::Removed);
        }
        if !self.is_open() {
            match self.sync() {
                Ok(true) => {}
                // The restart of the card wakes the task.
                Ok(false) => return Arm::Armed,
                Err(_) => return Arm::Pending,
            }
        }
        let Pair { rx, tx, .. } = &mut **self.pair;
        let is_in_flight = tx.used() > 0;
        let now = if is_in_flight { self.platform.now() } else { Instant::ZERO };
        tx.watchdog.arm(is_in_flight, now);
        rx.arm().and(tx.arm())
    }

    fn disarm(&mut self) {
        let registers = &self.control.card.registers;
        registers.mask(self.pair.rx.vector());
        registers.mask(self.pair.tx.vector());
    }

    fn register(&mut self, waker: &Waker) {
        let registers = &self.control.card.registers;
        for vector in [self.pair.rx.vector(), self.pair.tx.vector()] {
            registers.cell(vector).into_iter().for_each(|cell| cell.register(waker));
        }
    }

    fn next_deadline(&self) -> Instant {
        self.pair.tx.watchdog.deadline()
    }

    fn expire(&mut self, now: Instant) -> Result<(), Fault> {
        if self.is_open() {
            self.pair.tx.poll();
        }
        let is_in_flight = self.pair.tx.used() > 0;
        if !self.pair.tx.watchdog.has_expired(is_in_flight, now) {
            return Ok(());
        }
        log::warn!("vmxnet3: no frame was sent for too long: resetting the card");
        self.reset()
    }
}

impl<P: Platform, B: DmaBuffer> NetQueue for Vmxnet3Queue<P, B> {
    type Rx = Vmxnet3Rx<P>;
    type Tx = Vmxnet3Tx<P, B>;

    #[inline]
    fn poll(&mut self) -> Result<(), Fault> {
        if !self.is_open() && !self.sync()? {
            return Ok(());
        }
        let Pair { rx, tx, .. } = &mut **self.pair;
        tx.poll();
        rx.poll();
        Ok(())
    }

    fn split(&mut self) -> (&mut Vmxnet3Rx<P>, &mut Vmxnet3Tx<P, B>) {
        let Pair { rx, tx, .. } = &mut **self.pair;
        (rx, tx)
    }

    fn tx(&self) -> &Vmxnet3Tx<P, B> {
        &self.pair.tx
    }

    /// Stops and resets the card; it is in service again when all pairs have taken their buffers back.
    fn reset(&mut self) -> Result<(), Fault> {
        self.control.reset(self.control.card.gate(), Fault::Reset);
        self.sync().map(drop)
    }
}

impl<P: Platform, B: DmaBuffer> Drop for Vmxnet3Queue<P, B> {
    /// The card goes on with the pair, which has no owner then; what is in flight is dropped when the card is stopped.
    fn drop(&mut self) {
        self.disarm();
        if self.is_open() {
            self.pair.tx.poll();
        }
        // SAFETY: it is taken once, here, and not used after.
        let pair = unsafe { ManuallyDrop::take(&mut self.pair) };
        self.control.put_back(pair);
    }
}

impl<P: Platform, B: DmaBuffer> fmt::Debug for Vmxnet3Queue<P, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vmxnet3Queue")
            .field("rx", &self.pair.rx)
            .field("tx", &self.pair.tx)
            .finish_non_exhaustive()
    }
}
