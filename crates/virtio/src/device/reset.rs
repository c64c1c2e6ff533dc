//! Resets of a device, and of one of its queues.
//!
//! A reset that cannot be limited to one queue moves the device to the next *generation*. At its next call each queue detects the
//! change, reclaims its requests in flight, reinitialises its rings and reports that it is drained; the last report restarts the
//! device. A device that violated the protocol, was removed or did not confirm the reset stays out of service instead.

use super::{Inner, VirtioDevice};
use crate::features::Features;
use crate::queue::Quiesced;
use crate::queue::memory::QueueMemory;
use crate::transport;
use core::sync::atomic::Ordering;
use core::time::Duration;
use paravirt_device::Fault;
use paravirt_platform::Platform;

/// The timeout of the reset of one queue.
const QUEUE_RESET_TIMEOUT: Duration = Duration::from_secs(5);

impl<P: Platform> VirtioDevice<P> {
    /// Returns the current generation, which every reset increments.
    #[inline(always)]
    pub fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    /// Returns the current fault, if any.
    pub fn fault(&self) -> Option<Fault> {
        Some(self.fault.load(Ordering::Acquire)).filter(|code| *code != 0).map(Fault::from_code)
    }

    /// Resets the device because of `fault`, unless a reset of `generation` has begun already. After [`Fault::Reset`] the device
    /// starts again when every queue has been drained; after any other fault it stays out of service.
    pub fn reset(&self, generation: u32, fault: Fault) {
        let mut inner = self.inner.lock();
        if self.generation.load(Ordering::Relaxed) != generation {
            return;
        }
        let (proof, failed) = transport::reset(&self.platform, &mut *inner.transport);
        inner.is_quiesced = proof.is_some();
        inner.release_parked(proof.as_ref());
        let fault = failed.unwrap_or(fault);
        if fault != Fault::Reset {
            log::warn!("virtio: device out of service: {fault}");
        }
        let mut live = 0u16;
        for queue in inner.queues.iter_mut().flatten() {
            queue.is_drained = queue.is_untouched;
            live = live.saturating_add(u16::from(!queue.is_untouched));
        }
        self.undrained.store(live, Ordering::Relaxed);
        self.fault.store(fault.code(), Ordering::Release);
        self.generation.store(generation.wrapping_add(1), Ordering::Release);
        if live == 0 {
            self.restart_if_drained(&mut inner, 0);
        }
        drop(inner);
        self.wake_all();
    }

    /// Returns proof that the device stopped at the last reset; `None` if it did not confirm the reset.
    pub fn quiesced(&self) -> Option<Quiesced> {
        // SAFETY: the flag is set only if the reset was confirmed, and is cleared when the device is given queue addresses again,
        // which happens only after all queues have reported that they are drained.
        self.inner.lock().is_quiesced.then(|| unsafe { Quiesced::new() })
    }

    /// Reports that the queue at `place` has reclaimed its requests and reinitialised its rings. The last report restarts the
    /// device. A report for an earlier generation is ignored.
    pub fn drained(&self, place: usize, generation: u32) {
        let inner = &mut *self.inner.lock();
        if self.generation() != generation {
            return;
        }
        let Some(Some(queue)) = inner.queues.get_mut(place) else { return };
        if core::mem::replace(&mut queue.is_drained, true) {
            return;
        }
        let left = self.undrained.load(Ordering::Relaxed).saturating_sub(1);
        self.undrained.store(left, Ordering::Relaxed);
        self.restart_if_drained(inner, left);
    }

    fn restart_if_drained(&self, inner: &mut Inner<P>, left: u16) {
        if left > 0 || self.fault() != Some(Fault::Reset) || inner.queues.iter().all(Option::is_none) {
            return;
        }
        let restarted = match transport::negotiate(&mut *inner.transport, |_| self.features) {
            Ok(features) if features == self.features => self.bring_up(inner).is_ok(),
            _ => false,
        };
        self.fault.store(if restarted { 0 } else { Fault::Refused.code() }, Ordering::Release);
        self.wake_all();
    }

    /// Wakes all registered tasks, since the state of the device has changed.
    fn wake_all(&self) {
        self.interrupts.wake_all();
    }

    /// Resets one queue if the device supports that (VIRTIO_F_RING_RESET) and returns the proof; `None` if it does not, or does
    /// not confirm the reset. VIRTIO 1.3 §2.6.1
    pub fn reset_queue(&self, place: usize, generation: u32) -> Option<Quiesced> {
        if !self.can_reset_queue() {
            return None;
        }
        let inner = &mut *self.inner.lock();
        if self.generation() != generation {
            return None;
        }
        let index = inner.queues.get(place)?.as_ref()?.index;
        let deadline = self.platform.now().saturating_add(QUEUE_RESET_TIMEOUT);
        inner.transport.start_queue_reset(index);
        while !inner.transport.is_queue_reset(index) {
            if self.platform.now() >= deadline {
                return None;
            }
            self.platform.relax();
        }
        // SAFETY: the device reads the queue back as reset; the proof is for this queue alone.
        Some(unsafe { Quiesced::new() })
    }

    /// Enables a queue again that was reset alone, and returns whether the device accepted that.
    pub fn restart_queue(&self, place: usize, generation: u32) -> bool {
        let inner = &mut *self.inner.lock();
        if self.generation() != generation {
            // The whole device has been reset meanwhile; its restart enables the queue.
            return true;
        }
        let Some(Some(queue)) = inner.queues.get(place) else { return false };
        if queue.message.is_some() {
            inner.transport.set_queue_message(queue.index, queue.message);
        }
        inner.transport.enable_queue(queue.index, &queue.addresses)
    }

    /// Returns whether the device can reset one queue alone.
    pub fn can_reset_queue(&self) -> bool {
        self.features & Features::RING_RESET.bits() != 0
    }

    /// Keeps the memory of the idle queue at `place` until the next reset, after which the queue is not enabled again. Returns false if
    /// the device was reset after `generation`; `memory` is not called then.
    pub fn park(&self, place: usize, generation: u32, memory: impl FnOnce() -> QueueMemory<P>) -> bool {
        let inner = &mut *self.inner.lock();
        if self.generation() != generation {
            return false;
        }
        let (Some(slot), Some(queue)) = (inner.parked.get_mut(place), inner.queues.get_mut(place)) else {
            return false;
        };
        *slot = Some(memory());
        *queue = None;
        true
    }

    /// Records whether the rings of the queue at `place` are as they were when it was registered, as long as nobody uses it: a restart of
    /// the device does not wait for such a queue to be drained.
    pub fn set_untouched(&self, place: usize, is_untouched: bool) {
        if let Some(Some(queue)) = self.inner.lock().queues.get_mut(place) {
            queue.is_untouched = is_untouched;
        }
    }

    /// Takes a queue out of service that is about to be dropped, and returns proof if the device has released its memory. Without
    /// VIRTIO_F_RING_RESET this resets the device, from which the other queues recover.
    pub fn retire(&self, place: usize) -> Option<Quiesced> {
        let generation = self.generation();
        let mut alone = None;
        if self.fault().is_none() {
            alone = self.reset_queue(place, generation);
            if alone.is_none() {
                self.reset(generation, Fault::Reset);
            }
        }
        // One critical section for both: until the queue is removed from the table, a restart would enable it again.
        let inner = &mut *self.inner.lock();
        // SAFETY: the flag is set only if a reset was confirmed, and is cleared when the device is given queue addresses again.
        // Until this queue is removed from the table, under the lock held here, that waits for the report of this queue.
        let proof = alone.or_else(|| inner.is_quiesced.then(|| unsafe { Quiesced::new() }));
        self.forget_in(inner, place);
        proof
    }

    /// Removes a queue from the table of queues that a restart enables.
    pub fn forget(&self, place: usize) {
        self.forget_in(&mut self.inner.lock(), place);
    }

    fn forget_in(&self, inner: &mut Inner<P>, place: usize) {
        if let Some(slot) = inner.queues.get_mut(place) {
            if let Some(queue) = slot.take() {
                if !queue.is_drained && self.fault().is_some() {
                    let left = self.undrained.load(Ordering::Relaxed).saturating_sub(1);
                    self.undrained.store(left, Ordering::Relaxed);
                    self.restart_if_drained(inner, left);
                }
            }
        }
    }
}
