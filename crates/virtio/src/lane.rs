//! A queue in service: the virtqueue, its tie to the device, and what happens to it in a reset. Every driver has its queues
//! as lanes.

use crate::device::Core;
use crate::features::Features;
use crate::port::Port;
use crate::queue::{QueueConfig, Quiesced, SlotArea, Unsubmitted, Used, VirtQueue};
use crate::transport::{OpenError, VirtioTransport};
use core::task::Waker;
use paravirt_device::{Arm, Fault, Rejected};
use paravirt_platform::{AllocError, Direction, DmaBuffer, DmaSlice, Fifo, PageArc, Platform, Segment};

/// How a request came back.
pub(crate) enum Outcome<B, X> {
    /// The device used it.
    Used(Used<B, X>),
    /// The device was reset before it did.
    Aborted(Used<B, X>),
}

/// Whether a device is in service, and if so what came of it.
pub(crate) enum Live<R> {
    /// It is.
    Yes(R),
    /// It is being reset, or out of service.
    No,
}

/// A queue that was made and registered, before the device was started. Dropped, it takes itself back.
pub(crate) struct Draft<P: Platform, T: VirtioTransport, B: DmaBuffer, X> {
    queue: Option<VirtQueue<P, B, X>>,
    core: PageArc<P, Core<P, T>>,
    index: u16,
    place: usize,
    size: u16,
    generation: u32,
}

/// What a driver wants of a queue.
pub(crate) struct Wish {
    pub index: u16,
    /// Entries, at most.
    pub size: u16,
    /// Descriptors of an indirect table; 0 for none.
    pub indirect: u16,
    pub slot_areas: bool,
}

impl<P: Platform, T: VirtioTransport, B: DmaBuffer, X> Draft<P, T, B, X> {
    /// Makes queue `wish.index` and registers it.
    pub fn new(core: &PageArc<P, Core<P, T>>, wish: &Wish) -> Result<Self, OpenError> {
        let features = Features::from_bits_truncate(core.features());
        let in_order = features.contains(Features::IN_ORDER);
        let size = core.queue_size(wish.index, wish.size, in_order).ok_or(OpenError::Queue)?;
        let config = QueueConfig {
            size,
            packed: features.contains(Features::RING_PACKED),
            event_idx: features.contains(Features::EVENT_IDX),
            in_order,
            indirect: if features.contains(Features::INDIRECT_DESC) { wish.indirect } else { 0 },
            slot_areas: wish.slot_areas,
        };
        let mut queue = VirtQueue::new(core.platform(), config)?;
        let place = core.add_queue(wish.index, queue.addresses()).ok_or(OpenError::Queue)?;
        queue.set_live();
        Ok(Self {
            queue: Some(queue),
            core: core.clone(),
            index: wish.index,
            place,
            size,
            generation: core.generation(),
        })
    }

    /// Ring entries.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Requests of `segments` segments that can be in flight at once.
    pub fn depth(&self, segments: u16) -> u16 {
        self.queue.as_ref().map_or(0, |queue| queue.depth(segments))
    }

    /// The queue in service, after the device was started.
    pub fn into_lane(mut self) -> Result<Lane<P, T, B, X>, OpenError> {
        let port = Port::new(&self.core, self.index, self.place, self.generation)?;
        let queue = self.queue.take().ok_or(OpenError::Queue)?;
        Ok(Lane { queue, port, alone: None })
    }
}

impl<P: Platform, T: VirtioTransport, B: DmaBuffer, X> Drop for Draft<P, T, B, X> {
    fn drop(&mut self) {
        if let Some(queue) = &mut self.queue
            && let Some(proof) = self.core.retire(self.place)
        {
            queue.quiesce(&proof);
        }
    }
}

/// A queue in service.
pub(crate) struct Lane<P: Platform, T: VirtioTransport, B: DmaBuffer, X> {
    queue: VirtQueue<P, B, X>,
    port: Port<P, T>,
    /// The queue was reset alone, and waits for being drained.
    alone: Option<Quiesced>,
}

impl<P: Platform, T: VirtioTransport, B: DmaBuffer, X> Lane<P, T, B, X> {
    #[inline(always)]
    pub fn queue(&self) -> &VirtQueue<P, B, X> {
        &self.queue
    }

    pub fn core(&self) -> &PageArc<P, Core<P, T>> {
        self.port.core()
    }

    /// See [`VirtQueue::ignore_lengths`].
    pub fn ignore_lengths(&mut self) {
        self.queue.ignore_lengths();
    }

    /// The fault that keeps requests out; `None` where there is none.
    #[inline(always)]
    pub fn fault(&self) -> Option<Fault> {
        if self.port.is_current() && self.alone.is_none() { None } else { self.slow_fault() }
    }

    #[cold]
    fn slow_fault(&self) -> Option<Fault> {
        // A queue that has not noticed a restart yet takes requests again after the next call of `next`.
        Some(self.core().fault().unwrap_or(Fault::Reset))
    }

    #[inline(always)]
    #[allow(clippy::result_large_err, reason = "the error carries the request back: that is its point")]
    pub fn submit(
        &mut self,
        prefix: &[Segment],
        buffer: Option<B>,
        direction: Direction,
        suffix: &[Segment],
        extra: X,
        prepare: impl FnOnce(&[Segment], Option<&SlotArea>) -> Result<(), Rejected>,
    ) -> Result<(), Unsubmitted<B, X>> {
        self.queue.submit(prefix, buffer, direction, suffix, extra, prepare)
    }

    #[inline(always)]
    pub fn kick(&mut self) {
        if self.fault().is_none() && self.queue.publish() {
            self.port.ring();
        }
    }

    /// The next request that the device used, while it is in service: the data path. [`Live::No`] sends the caller to
    /// [`next`](Self::next).
    #[inline(always)]
    pub fn pop(&mut self) -> Live<Option<Used<B, X>>> {
        if self.port.is_current() && self.alone.is_none() {
            match self.queue.pop() {
                Ok(used) => return Live::Yes(used),
                Err(fault) => self.fail(fault),
            }
        }
        Live::No
    }

    /// The next request that came back. A fault is reported when nothing is left.
    pub fn next(&mut self) -> Result<Option<Outcome<B, X>>, Fault> {
        if let Live::Yes(used) = self.pop() {
            return Ok(used.map(Outcome::Used));
        }
        self.drain()
    }

    #[cold]
    fn drain(&mut self) -> Result<Option<Outcome<B, X>>, Fault> {
        if let Some(proof) = &self.alone {
            if let Some(used) = self.queue.take_back(Some(proof)) {
                return Ok(Some(Outcome::Aborted(used)));
            }
            self.queue.quiesce(proof);
            self.queue.set_live();
            self.alone = None;
            if !self.port.restart_alone() {
                self.port.fail(Fault::Reset);
            }
            return Ok(None);
        }
        let proof = self.port.core().quiesced();
        if let Some(used) = self.queue.take_back(proof.as_ref()) {
            return Ok(Some(Outcome::Aborted(used)));
        }
        if !self.port.is_drained()
            && let Some(proof) = &proof
        {
            self.queue.quiesce(proof);
            self.queue.set_live();
        }
        self.port.recover().map(|()| None)
    }

    /// Resets the device because of `fault`: see [`Core::reset`].
    #[cold]
    pub fn fail(&self, fault: Fault) {
        self.port.fail(fault);
    }

    /// Resets the device: everything in flight comes back as aborted.
    pub fn reset_device(&mut self) -> Result<(), Fault> {
        if self.port.is_current() {
            self.port.fail(Fault::Reset);
        }
        self.after_reset()
    }

    /// Resets this queue alone where the device can do that, else the device.
    pub fn reset_alone(&mut self) -> Result<(), Fault> {
        if self.port.is_current() && self.alone.is_none() {
            match self.port.reset_alone() {
                Some(proof) => self.alone = Some(proof),
                None => return self.reset_device(),
            }
        }
        self.after_reset()
    }

    fn after_reset(&self) -> Result<(), Fault> {
        match self.core().fault() {
            None | Some(Fault::Reset) => Ok(()),
            Some(fault) => Err(fault),
        }
    }

    /// Asks for an interrupt.
    #[inline]
    pub fn arm(&mut self) -> Arm {
        if !self.port.is_current() || self.alone.is_some() {
            // Something has to be given back, or the device restarted meanwhile; else its restart wakes.
            let waiting = self.port.is_drained() && self.core().fault().is_some();
            return if waiting { Arm::Armed } else { Arm::Pending };
        }
        if self.queue.arm() { Arm::Pending } else { Arm::Armed }
    }

    pub fn disarm(&mut self) {
        self.queue.disarm();
    }

    pub fn register(&self, waker: &Waker) {
        self.port.register(waker);
    }
}

/// Lanes whose buffers are the driver's own, and wait in a pool while the device does not have them.
impl<P: Platform, T: VirtioTransport> Lane<P, T, DmaSlice<P>, ()> {
    /// `count` buffers of `len` bytes each.
    pub fn pool(platform: &P, count: u16, len: usize) -> Result<Fifo<P, DmaSlice<P>>, AllocError> {
        let mut spare = Fifo::new(platform, usize::from(count))?;
        // There is room for as many.
        DmaSlice::alloc_many(platform, usize::from(count), len, |slice| drop(spare.push(slice)))?;
        Ok(spare)
    }

    /// Gives the device `buffer`; whether it has it now. What it does not take goes back to `spare`.
    pub fn give(
        &mut self,
        buffer: DmaSlice<P>,
        direction: Direction,
        spare: &mut Fifo<P, DmaSlice<P>>,
    ) -> bool {
        let sent = self.submit(&[], Some(buffer), direction, &[], (), |_, _| Ok(()));
        let Err(refused) = sent else { return true };
        refused.buffer.into_iter().for_each(|buffer| drop(spare.push(buffer)));
        false
    }

    /// Gives the device all of `spare` to write to, as far as there is room.
    pub fn refill(&mut self, spare: &mut Fifo<P, DmaSlice<P>>) {
        while self.fault().is_none()
            && self.queue.has_room(1)
            && let Some(buffer) = spare.pop()
            && self.give(buffer, Direction::FromDevice, spare)
        {}
        self.kick();
    }

    /// Takes back what the device has read; whether there was any.
    pub fn take_back(&mut self, spare: &mut Fifo<P, DmaSlice<P>>) -> Result<bool, Fault> {
        let mut came = false;
        while let Some(Outcome::Used(used) | Outcome::Aborted(used)) = self.next()? {
            used.buffer.into_iter().for_each(|buffer| drop(spare.push(buffer)));
            came = true;
        }
        Ok(came)
    }
}

impl<P: Platform, T: VirtioTransport, B: DmaBuffer, X> Drop for Lane<P, T, B, X> {
    fn drop(&mut self) {
        let proof = match self.alone.take() {
            Some(proof) => {
                self.port.core().forget(self.port.place());
                Some(proof)
            }
            None => self.port.core().retire(self.port.place()),
        };
        if let Some(proof) = proof {
            while self.queue.take_back(Some(&proof)).is_some() {}
            self.queue.quiesce(&proof);
        }
    }
}
