//! A queue in service: the virtqueue, its tie to the device, and what happens to it in a reset. Every driver has its queues
//! as [`RequestQueue`]s.

use crate::device::VirtioDevice;
use crate::features::Features;
use crate::queue::{
    FrameQueue, Parts, QueueConfig, Quiesced, RecordQueue, Ring, RingFormat, Unsubmitted, Used, VirtQueue,
};
use crate::transport::{Doorbell, OpenError};
use core::task::Waker;
use paravirt_device::{Arm, Fault};
use paravirt_platform::{AllocError, Direction, DmaBuffer, DmaSlice, Fifo, PageArc, Platform};

/// A completed request.
pub(crate) enum Outcome<U> {
    /// The device used it.
    Used(U),
    /// The device was reset before it did.
    Aborted(U),
}

/// What a driver wants of a queue.
pub(crate) struct QueueParams {
    pub index: u16,
    /// Entries, at most.
    pub size: u16,
    /// Descriptors of an indirect table; 0 for none.
    pub indirect: u16,
    /// Bytes of each slot's area.
    pub area: u16,
}

impl QueueParams {
    pub const fn new(index: u16, size: u16) -> Self {
        Self { index, size, indirect: 0, area: 0 }
    }
}

/// A queue that was made and registered, before the device was started. Dropped, it takes itself back.
pub(crate) struct QueueBuilder<P: Platform, Q: Ring> {
    queue: Option<Q>,
    device: PageArc<P, VirtioDevice<P>>,
    index: u16,
    place: usize,
    size: u16,
    generation: u32,
}

impl<P: Platform, B: DmaBuffer, X> QueueBuilder<P, VirtQueue<P, B, X>> {
    /// Makes queue `params.index` and registers it.
    pub fn new(device: &PageArc<P, VirtioDevice<P>>, params: &QueueParams) -> Result<Self, OpenError> {
        let features = Features::from_bits_truncate(device.features());
        let in_order = features.contains(Features::IN_ORDER);
        let size = device.queue_size(params.index, params.size, in_order).ok_or(OpenError::Queue)?;
        let is_packed = features.contains(Features::RING_PACKED);
        let mut config = QueueConfig::new(size);
        config.format = if is_packed { RingFormat::Packed } else { RingFormat::Split };
        config.event_idx = features.contains(Features::EVENT_IDX);
        config.in_order = in_order;
        config.indirect = if features.contains(Features::INDIRECT_DESC) { params.indirect } else { 0 };
        config.area = params.area;
        Self::register(device, params.index, size, VirtQueue::new(device.platform(), config)?)
    }

    /// Requests of `segments` segments that can be in flight at once.
    pub fn depth(&self, segments: u16) -> u16 {
        self.queue.as_ref().map_or(0, |queue| queue.depth(segments))
    }
}

impl<P: Platform, B: DmaBuffer, X> QueueBuilder<P, RecordQueue<P, B, X>> {
    /// Makes queue `index` with records, for data of up to `segments` segments, and registers it; `None` where the device has not
    /// agreed on what records need.
    pub fn with_records(
        device: &PageArc<P, VirtioDevice<P>>,
        index: u16,
        size: u16,
        segments: u16,
    ) -> Result<Option<Self>, OpenError> {
        let features = Features::from_bits_truncate(device.features());
        if !has_split_tables(features) {
            return Ok(None);
        }
        let size = device.queue_size(index, size, false).ok_or(OpenError::Queue)?;
        let event_idx = features.contains(Features::EVENT_IDX);
        let queue = RecordQueue::new(device.platform(), size, segments, event_idx)?;
        Self::register(device, index, size, queue).map(Some)
    }
}

impl<P: Platform, B: DmaBuffer> QueueBuilder<P, FrameQueue<P, B>> {
    /// Makes queue `index` with frame buffers of `frame_len` bytes, all together at most `max_bytes`, for buffers of up to
    /// `segments` segments, and registers it; `None` where the device has not agreed on what that needs, or it would be larger.
    pub fn with_frames(
        device: &PageArc<P, VirtioDevice<P>>,
        params: &QueueParams,
        segments: u16,
        frame_len: usize,
        max_bytes: usize,
    ) -> Result<Option<Self>, OpenError> {
        let features = Features::from_bits_truncate(device.features());
        if !has_split_tables(features) {
            return Ok(None);
        }
        let size = device.queue_size(params.index, params.size, false).ok_or(OpenError::Queue)?;
        if frame_len.saturating_mul(usize::from(size)) > max_bytes {
            return Ok(None);
        }
        let event_idx = features.contains(Features::EVENT_IDX);
        let queue = FrameQueue::new(device.platform(), size, frame_len, segments, event_idx)?;
        Self::register(device, params.index, size, queue).map(Some)
    }
}

/// Whether a device has agreed on what the queues need that are split, indirect and used out of order.
fn has_split_tables(features: Features) -> bool {
    let is_other = features.intersects(Features::RING_PACKED | Features::IN_ORDER);
    !is_other && features.contains(Features::INDIRECT_DESC)
}

impl<P: Platform, Q: Ring> QueueBuilder<P, Q> {
    fn register(
        device: &PageArc<P, VirtioDevice<P>>,
        index: u16,
        size: u16,
        mut queue: Q,
    ) -> Result<Self, OpenError> {
        let place = device.add_queue(index, queue.addresses()).ok_or(OpenError::Queue)?;
        let generation = device.generation();
        Ok(Self { queue: Some(queue), device: device.clone(), index, place, size, generation })
    }

    /// Ring entries.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// The queue in service, after the device was started.
    pub fn build(mut self) -> Result<RequestQueue<P, Q>, OpenError> {
        let doorbell = self.device.doorbell(self.index).ok_or(OpenError::Queue)?;
        let queue = self.queue.take().ok_or(OpenError::Queue)?;
        Ok(RequestQueue {
            gate: u64::from(self.generation),
            queue,
            doorbell,
            device: self.device.clone(),
            place: self.place,
            generation: self.generation,
            drained: None,
            reset: None,
        })
    }
}

impl<P: Platform, Q: Ring> Drop for QueueBuilder<P, Q> {
    fn drop(&mut self) {
        if let Some(queue) = &mut self.queue
            && let Some(proof) = self.device.retire(self.place)
        {
            queue.quiesce(&proof);
        }
    }
}

/// A queue in service.
///
/// One word, the *gate*, says whether everything is as usual: it holds the generation of the device that the queue belongs to, and
/// a value that no generation has while the queue is being drained or its driver has something else to look at. The data path
/// compares it with the device's generation and leaves the rest to the slow path.
pub(crate) struct RequestQueue<P: Platform, Q: Ring> {
    gate: u64,
    queue: Q,
    device: PageArc<P, VirtioDevice<P>>,
    doorbell: Doorbell,
    /// Its place among the device's queues.
    place: usize,
    /// The generation of the device that it belongs to.
    generation: u32,
    /// The generation in which the queue has reported in, and waits for the restart.
    drained: Option<u32>,
    /// The queue was reset alone, and waits for being drained.
    reset: Option<Quiesced>,
}

/// A gate that is closed.
const CLOSED: u64 = u64::MAX;

impl<P: Platform, Q: Ring> RequestQueue<P, Q> {
    #[inline(always)]
    pub fn queue(&self) -> &Q {
        &self.queue
    }

    #[inline(always)]
    pub fn queue_mut(&mut self) -> &mut Q {
        &mut self.queue
    }

    pub fn device(&self) -> &PageArc<P, VirtioDevice<P>> {
        &self.device
    }

    /// Requests in flight.
    pub fn in_flight(&self) -> u16 {
        self.queue.in_flight()
    }

    /// Whether the queue is in service and its driver has nothing else to look at.
    #[inline(always)]
    pub fn is_open(&self) -> bool {
        u64::from(self.device.generation()) == self.gate
    }

    /// Closes the gate, until [`reopen`](Self::reopen): [`is_open`](Self::is_open) says no.
    pub fn close(&mut self) {
        self.gate = CLOSED;
    }

    /// Opens the gate again, where the queue is in service.
    pub fn reopen(&mut self) {
        self.gate = if self.reset.is_none() { u64::from(self.generation) } else { CLOSED };
    }

    /// Whether the device is in the queue's generation, and the queue was not reset alone.
    fn is_in_service(&self) -> bool {
        self.device.generation() == self.generation && self.reset.is_none()
    }

    /// The fault that keeps requests out; `None` where there is none.
    #[inline(always)]
    pub fn fault(&self) -> Option<Fault> {
        if self.is_open() { None } else { self.slow_fault() }
    }

    #[cold]
    fn slow_fault(&self) -> Option<Fault> {
        if self.is_in_service() {
            return None;
        }
        // A queue that has not noticed a restart yet takes requests again after the next call of `next`.
        Some(self.device.fault().unwrap_or(Fault::Reset))
    }

    /// Shows the device what was submitted, and kicks it where it has to be.
    #[inline(always)]
    pub fn kick(&mut self) {
        if self.fault().is_none() && self.queue.publish() {
            // SAFETY: the device is held by this queue, and the transport by the device.
            unsafe { self.doorbell.ring() }
        }
    }

    /// Returns the next completed request. A fault is reported once nothing is outstanding.
    #[inline(always)]
    pub fn next(&mut self) -> Result<Option<Outcome<Q::Used>>, Fault> {
        if self.is_open() {
            match self.queue.pop() {
                Ok(used) => return Ok(used.map(Outcome::Used)),
                Err(fault) => self.fail(fault),
            }
        }
        self.next_slow()
    }

    #[cold]
    fn next_slow(&mut self) -> Result<Option<Outcome<Q::Used>>, Fault> {
        if self.is_in_service() {
            match self.queue.pop() {
                Ok(used) => return Ok(used.map(Outcome::Used)),
                Err(fault) => self.fail(fault),
            }
        }
        self.drain()
    }

    #[cold]
    fn drain(&mut self) -> Result<Option<Outcome<Q::Used>>, Fault> {
        self.close();
        if let Some(proof) = &self.reset {
            if let Some(used) = self.queue.reclaim_next(Some(proof)) {
                return Ok(Some(Outcome::Aborted(used)));
            }
            self.queue.quiesce(proof);
            // The device is told of the queue again below.
            let _ = self.queue.addresses();
            self.reset = None;
            if self.device.restart_queue(self.place, self.generation) {
                self.reopen();
            } else {
                self.fail(Fault::Reset);
            }
            return Ok(None);
        }
        let proof = self.device.quiesced();
        if let Some(used) = self.queue.reclaim_next(proof.as_ref()) {
            return Ok(Some(Outcome::Aborted(used)));
        }
        if !self.is_drained()
            && let Some(proof) = &proof
        {
            self.queue.quiesce(proof);
            // The device is told of the queue again when all have reported in.
            let _ = self.queue.addresses();
        }
        self.report_drained().map(|()| None)
    }

    /// Reports, once a reset, that everything was given back, then says how the device is: in service again, or with a
    /// fault.
    fn report_drained(&mut self) -> Result<(), Fault> {
        // Ahead of the fault: what is in force after a further reset is not taken for the state of this one.
        let generation = self.device.generation();
        if self.drained != Some(generation) {
            self.drained = Some(generation);
            self.device.drained(self.place, generation);
        }
        match self.device.fault() {
            None => {
                self.generation = generation;
                self.drained = None;
                self.reopen();
                Ok(())
            }
            Some(fault) => Err(fault),
        }
    }

    /// Whether the queue has given everything back after the last reset, and waits for the restart.
    fn is_drained(&self) -> bool {
        self.drained == Some(self.device.generation())
    }

    /// Resets the device because of `fault`: see [`VirtioDevice::reset`].
    #[cold]
    pub fn fail(&self, fault: Fault) {
        self.device.reset(self.generation, fault);
    }

    /// Resets the device: everything in flight completes as aborted.
    pub fn reset_device(&mut self) -> Result<(), Fault> {
        if self.device.generation() == self.generation {
            self.fail(Fault::Reset);
        }
        self.after_reset()
    }

    /// Resets this queue alone where the device can do that, else the device.
    pub fn reset_alone(&mut self) -> Result<(), Fault> {
        if self.is_in_service() {
            match self.device.reset_queue(self.place, self.generation) {
                Some(proof) => {
                    self.close();
                    self.reset = Some(proof);
                }
                None => return self.reset_device(),
            }
        }
        self.after_reset()
    }

    fn after_reset(&self) -> Result<(), Fault> {
        match self.device.fault() {
            None | Some(Fault::Reset) => Ok(()),
            Some(fault) => Err(fault),
        }
    }

    /// Asks for an interrupt.
    #[inline]
    pub fn arm(&mut self) -> Arm {
        if !self.is_in_service() {
            // Requests have to be reclaimed, or the device restarted meanwhile; else its restart wakes.
            let is_waiting = self.is_drained() && self.device.fault().is_some();
            return if is_waiting { Arm::Armed } else { Arm::Pending };
        }
        if self.queue.arm() { Arm::Pending } else { Arm::Armed }
    }

    /// Wants no interrupts.
    pub fn disarm(&mut self) {
        self.queue.disarm();
    }

    /// Registers the task to wake at the next event.
    pub fn register(&self, waker: &Waker) {
        if let Some(cell) = self.device.cell(self.place) {
            cell.register(waker);
        }
    }
}

/// The queue of a driver that names nothing but one buffer in a request.
pub(crate) type BufferQueue<P, B> = RequestQueue<P, VirtQueue<P, B, ()>>;

impl<P: Platform, B: DmaBuffer> BufferQueue<P, B> {
    /// Puts `buffer` in flight.
    #[inline(always)]
    pub fn submit(&mut self, buffer: B, direction: Direction) -> Result<(), Unsubmitted<B, ()>> {
        self.queue.submit(Parts::NONE, Some(buffer), direction, (), |_, _| Ok(()))
    }
}

/// Queues whose buffers are the driver's own, and wait in a pool while they are not in flight.
impl<P: Platform> BufferQueue<P, DmaSlice<P>> {
    /// `count` buffers of `len` bytes each.
    pub fn pool(platform: &P, count: u16, len: usize) -> Result<Fifo<P, DmaSlice<P>>, AllocError> {
        let mut spare = Fifo::new(platform, usize::from(count))?;
        // There is room for as many.
        DmaSlice::alloc_many(platform, usize::from(count), len, |slice| drop(spare.push(slice)))?;
        Ok(spare)
    }

    /// Puts `buffer` in flight; whether it is. What is refused goes back to `spare`.
    pub fn submit_from(
        &mut self,
        buffer: DmaSlice<P>,
        direction: Direction,
        spare: &mut Fifo<P, DmaSlice<P>>,
    ) -> bool {
        let Err(refused) = self.submit(buffer, direction) else { return true };
        refused.buffer.into_iter().for_each(|buffer| drop(spare.push(buffer)));
        false
    }

    /// Puts all of `spare` in flight for the device to write to, as far as there is room.
    pub fn refill(&mut self, spare: &mut Fifo<P, DmaSlice<P>>) {
        while self.fault().is_none()
            && self.queue.has_room(1)
            && let Some(buffer) = spare.pop()
            && self.submit_from(buffer, Direction::FromDevice, spare)
        {}
        self.kick();
    }

    /// Takes back what the device has read; whether there was any.
    pub fn reclaim_all(&mut self, spare: &mut Fifo<P, DmaSlice<P>>) -> Result<bool, Fault> {
        let mut came = false;
        while let Some(Outcome::Used(used) | Outcome::Aborted(used)) = self.next()? {
            let Used { buffer, .. } = used;
            buffer.into_iter().for_each(|buffer| drop(spare.push(buffer)));
            came = true;
        }
        Ok(came)
    }
}

impl<P: Platform, Q: Ring> Drop for RequestQueue<P, Q> {
    fn drop(&mut self) {
        let proof = match self.reset.take() {
            Some(proof) => {
                self.device.forget(self.place);
                Some(proof)
            }
            None => self.device.retire(self.place),
        };
        if let Some(proof) = proof {
            while self.queue.reclaim_next(Some(&proof)).is_some() {}
            self.queue.quiesce(&proof);
        }
    }
}
