//! Request queues: a virtqueue with its doorbell, the shared state of its device, and its recovery after a reset. Every driver uses
//! its queues as [`RequestQueue`]s.

use crate::device::VirtioDevice;
use crate::features::Features;
use crate::queue::{
    FrameQueue, Parts, QueueConfig, Quiesced, RecordQueue, Ring, RingFormat, Unsubmitted, Used, VirtQueue,
};
use crate::transport::{Doorbell, OpenError};
use core::task::Waker;
use paravirt_device::{Arm, Fault};
use paravirt_platform::{AllocError, Direction, DmaBuffer, DmaSlice, Fifo, PageArc, PageBox, Platform};

/// A completed request.
pub(crate) enum Outcome<U> {
    /// The device completed it.
    Used(U),
    /// The device was reset before the request completed.
    Aborted(U),
}

/// The parameters of a queue that a driver requests.
pub(crate) struct QueueParams {
    pub index: u16,
    /// The maximum number of ring entries.
    pub size: u16,
    /// The number of descriptors in each slot's indirect table; 0 for no tables.
    pub indirect: u16,
    /// The size of each slot's area in bytes; 0 for none.
    pub area: u16,
}

impl QueueParams {
    pub const fn new(index: u16, size: u16) -> Self {
        Self { index, size, indirect: 0, area: 0 }
    }
}

/// A queue that has been allocated and registered with its device, which has not been started yet. Dropping it removes the queue
/// from the device.
///
/// The queue is in pages of its own until it is built, so that several fit on a small stack.
pub(crate) struct QueueBuilder<P: Platform, Q: Ring> {
    queue: Option<PageBox<P, Q>>,
    device: PageArc<P, VirtioDevice<P>>,
    index: u16,
    place: usize,
    size: u16,
    generation: u32,
}

impl<P: Platform, B: DmaBuffer, X> QueueBuilder<P, VirtQueue<P, B, X>> {
    /// Allocates queue `params.index` and registers it with the device.
    #[inline(never)]
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

    /// Returns the maximum number of requests of `segments` segments in flight.
    pub fn depth(&self, segments: u16) -> u16 {
        self.queue.as_ref().map_or(0, |queue| queue.depth(segments))
    }
}

impl<P: Platform, B: DmaBuffer, X> QueueBuilder<P, RecordQueue<P, B, X>> {
    /// Allocates record queue `index`, for data of up to `segments` segments, and registers it with the device. Returns `None` if
    /// the negotiated features do not allow record queues.
    #[inline(never)]
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
    /// Allocates frame queue `params.index` with a frame buffer of `frame_len` bytes per entry, for caller's buffers of up to
    /// `segments` segments, and registers it with the device. Returns `None` if the negotiated features do not allow frame queues,
    /// or if the frame buffers together would exceed `max_bytes`.
    #[inline(never)]
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

/// Returns whether the negotiated features are those of split queues with indirect tables that are used out of order.
fn has_split_tables(features: Features) -> bool {
    let has_other_format = features.intersects(Features::RING_PACKED | Features::IN_ORDER);
    !has_other_format && features.contains(Features::INDIRECT_DESC)
}

impl<P: Platform, Q: Ring<Platform = P>> QueueBuilder<P, Q> {
    #[inline(never)]
    fn register(
        device: &PageArc<P, VirtioDevice<P>>,
        index: u16,
        size: u16,
        queue: Q,
    ) -> Result<Self, OpenError> {
        let mut queue = PageBox::new(device.platform(), queue)?;
        let place = device.add_queue(index, queue.addresses()).ok_or(OpenError::Queue)?;
        let generation = device.generation();
        Ok(Self { queue: Some(queue), device: device.clone(), index, place, size, generation })
    }

    /// Returns the number of ring entries.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Returns the queue in service. The device has been started.
    #[inline(never)]
    pub fn build(mut self) -> Result<RequestQueue<P, Q>, OpenError> {
        let doorbell = self.device.doorbell(self.index).ok_or(OpenError::Queue)?;
        let queue = self.queue.take().ok_or(OpenError::Queue)?.into_inner();
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

    /// Builds the queue, and what `make` makes of it in `place`, in a frame that the caller's does not include: each copy is much for a
    /// small stack.
    #[inline(never)]
    pub fn build_in<T>(
        self,
        place: &mut Option<T>,
        make: impl FnOnce(RequestQueue<P, Q>) -> Result<T, AllocError>,
    ) -> Result<(), OpenError> {
        *place = Some(make(self.build()?)?);
        Ok(())
    }
}

impl<P: Platform, B: DmaBuffer> QueueBuilder<P, VirtQueue<P, B, ()>> {
    /// As [`build`](Self::build), in pages of its own: for queues of which a device has several, and which are not fast.
    #[inline(never)]
    pub fn build_boxed(self) -> Result<BoxedQueue<P, B>, OpenError> {
        let platform = self.device.platform().clone();
        Ok(PageBox::new(&platform, self.build()?)?)
    }
}

impl<P: Platform, Q: Ring> Drop for QueueBuilder<P, Q> {
    fn drop(&mut self) {
        if let Some(queue) = &mut self.queue {
            if let Some(proof) = self.device.retire(self.place) {
                queue.quiesce(&proof);
            }
        }
    }
}

/// A queue in service.
///
/// The data path checks a single word, the *gate*. While the gate is open, it holds the queue's generation; while the queue is
/// being drained or its driver has other completions to return, the gate is [`CLOSED`], a value that no generation has. The data
/// path compares the gate with the device's generation and calls the slow path if they differ.
pub(crate) struct RequestQueue<P: Platform, Q: Ring<Platform = P>> {
    gate: u64,
    queue: Q,
    device: PageArc<P, VirtioDevice<P>>,
    doorbell: Doorbell,
    /// The queue's index in the device's table of queues.
    place: usize,
    /// The generation of the device that the queue belongs to.
    generation: u32,
    /// The generation for which the queue has reported that it is drained, while it waits for the restart.
    drained: Option<u32>,
    /// The proof of a reset of this queue alone, until the queue is drained.
    reset: Option<Quiesced>,
}

/// The value of a closed gate.
const CLOSED: u64 = u64::MAX;

impl<P: Platform, Q: Ring<Platform = P>> RequestQueue<P, Q> {
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

    /// Returns the number of requests in flight.
    pub fn in_flight(&self) -> u16 {
        self.queue.in_flight()
    }

    /// Returns whether the gate is open: the queue is in service and its driver has no other completions to return.
    #[inline(always)]
    pub fn is_open(&self) -> bool {
        u64::from(self.device.generation()) == self.gate
    }

    /// Closes the gate until [`reopen`](Self::reopen); [`is_open`](Self::is_open) then returns false.
    pub fn close(&mut self) {
        self.gate = CLOSED;
    }

    /// Opens the gate again, unless this queue is being reset alone.
    pub fn reopen(&mut self) {
        self.gate = if self.reset.is_none() { u64::from(self.generation) } else { CLOSED };
    }

    /// Returns whether the device is in the queue's generation and the queue is not being reset alone.
    fn is_in_service(&self) -> bool {
        self.device.generation() == self.generation && self.reset.is_none()
    }

    /// Returns the fault for which requests are refused; `None` if the queue accepts requests.
    #[inline(always)]
    pub fn fault(&self) -> Option<Fault> {
        if self.is_open() { None } else { self.slow_fault() }
    }

    #[cold]
    fn slow_fault(&self) -> Option<Fault> {
        if self.is_in_service() {
            return None;
        }
        // The device may have been restarted already: the queue accepts requests again after the next call of `next`.
        Some(self.device.fault().unwrap_or(Fault::Reset))
    }

    /// Publishes the submitted requests and kicks the device if it requests a kick.
    #[inline(always)]
    pub fn kick(&mut self) {
        if self.fault().is_none() && self.queue.publish() {
            // SAFETY: this queue keeps the device alive, and the device keeps the transport alive.
            unsafe { self.doorbell.ring() }
        }
    }

    /// Returns the next completed request. A fault is returned only after every request in flight has been returned.
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
            // `restart_queue` gives the device the addresses of the queue again.
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
        if !self.is_drained() {
            if let Some(proof) = &proof {
                self.queue.quiesce(proof);
                // The restart gives the device the addresses of the queue again, once all queues are drained.
                let _ = self.queue.addresses();
            }
        }
        self.report_drained().map(|()| None)
    }

    /// Reports once per reset that the queue is drained. Returns `Ok` if the device is in service again, otherwise its fault.
    fn report_drained(&mut self) -> Result<(), Fault> {
        // Read the generation before the fault: a later reset must not be mistaken for this one.
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

    /// Returns whether the queue has returned all requests after the last reset and waits for the restart.
    fn is_drained(&self) -> bool {
        self.drained == Some(self.device.generation())
    }

    /// Resets the device because of `fault`, as [`VirtioDevice::reset`] describes.
    #[cold]
    pub fn fail(&self, fault: Fault) {
        self.device.reset(self.generation, fault);
    }

    /// Resets the device. Requests in flight complete as aborted.
    pub fn reset_device(&mut self) -> Result<(), Fault> {
        let generation = self.device.generation();
        // Also if the device has been restarted since and this queue has not noticed yet.
        if generation == self.generation || self.device.fault().is_none() {
            self.device.reset(generation, Fault::Reset);
        }
        self.after_reset()
    }

    /// Resets this queue alone if the device supports that, otherwise the whole device.
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

    /// See [`VirtioDevice::set_untouched`].
    pub fn set_untouched(&self, is_untouched: bool) {
        self.device.set_untouched(self.place, is_untouched);
    }

    /// If nothing is in flight and the device cannot reset the queue alone, gives the memory of the queue to the device, which keeps it
    /// until its next reset: the other queues are not disturbed. Returns `None` if the queue has to be reset instead. The queue is not
    /// used after that.
    fn park(&mut self) -> Option<()> {
        if !self.is_in_service() || self.device.can_reset_queue() {
            return None;
        }
        // What has been completed is not in flight any more. A queue completes no more than its size.
        while self.queue.in_flight() > 0 && matches!(self.queue.pop(), Ok(Some(_))) {}
        if self.queue.in_flight() > 0 {
            return None;
        }
        // SAFETY: nothing is in flight, and the only caller drops the queue.
        let memory = || unsafe { self.queue.take_memory() };
        self.device.park(self.place, self.generation, memory).then_some(())
    }

    fn after_reset(&self) -> Result<(), Fault> {
        match self.device.fault() {
            None | Some(Fault::Reset) => Ok(()),
            Some(fault) => Err(fault),
        }
    }

    /// Enables the interrupt for the next completion.
    #[inline]
    pub fn arm(&mut self) -> Arm {
        if !self.is_in_service() {
            // Requests are to be reclaimed, or the device has been restarted meanwhile. Otherwise the restart wakes the task.
            let is_waiting = self.is_drained() && self.device.fault().is_some();
            return if is_waiting { Arm::Armed } else { Arm::Pending };
        }
        if self.queue.arm() { Arm::Pending } else { self.device.armed(self.place) }
    }

    /// Disables interrupts for completions.
    pub fn disarm(&mut self) {
        self.queue.disarm();
    }

    /// Registers the waker to wake at the next event.
    #[inline(never)]
    pub fn register(&self, waker: &Waker) {
        if let Some(cell) = self.device.cell(self.place) {
            cell.register(waker);
        }
    }
}

/// A queue whose requests consist of one buffer each.
pub(crate) type BufferQueue<P, B> = RequestQueue<P, VirtQueue<P, B, ()>>;
/// The same in pages of its own.
pub(crate) type BoxedQueue<P, B> = PageBox<P, BufferQueue<P, B>>;

impl<P: Platform, B: DmaBuffer> BufferQueue<P, B> {
    /// Submits `buffer` as a request.
    #[inline(always)]
    pub fn submit(&mut self, buffer: B, direction: Direction) -> Result<(), Unsubmitted<B, ()>> {
        self.queue.submit(Parts::NONE, Some(buffer), direction, (), |_, _| Ok(()))
    }
}

/// Queues whose buffers belong to the driver and stay in a pool while they are not in flight.
impl<P: Platform> BufferQueue<P, DmaSlice<P>> {
    /// Allocates a pool of `count` buffers of `len` bytes each.
    pub fn pool(platform: &P, count: u16, len: usize) -> Result<Fifo<P, DmaSlice<P>>, AllocError> {
        let mut spare = Fifo::new(platform, usize::from(count))?;
        // The pool has room for `count` buffers.
        DmaSlice::alloc_many(platform, usize::from(count), len, |slice| drop(spare.push(slice)))?;
        Ok(spare)
    }

    /// Submits `buffer` and returns whether it is in flight. A refused buffer is returned to `spare`.
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

    /// Submits the buffers of `spare` for the device to write, until the queue is full, and kicks the device.
    pub fn refill(&mut self, spare: &mut Fifo<P, DmaSlice<P>>) {
        while self.fault().is_none() && self.queue.has_room(1) {
            let Some(buffer) = spare.pop() else { break };
            if !self.submit_from(buffer, Direction::FromDevice, spare) {
                break;
            }
        }
        self.kick();
    }

    /// Reclaims completed buffers to `spare` and returns whether there were any.
    pub fn reclaim_all(&mut self, spare: &mut Fifo<P, DmaSlice<P>>) -> Result<bool, Fault> {
        let mut is_any = false;
        while let Some(Outcome::Used(used) | Outcome::Aborted(used)) = self.next()? {
            let Used { buffer, .. } = used;
            buffer.into_iter().for_each(|buffer| drop(spare.push(buffer)));
            is_any = true;
        }
        Ok(is_any)
    }
}

impl<P: Platform, Q: Ring<Platform = P>> Drop for RequestQueue<P, Q> {
    fn drop(&mut self) {
        let proof = match self.reset.take() {
            Some(proof) => {
                self.device.forget(self.place);
                Some(proof)
            }
            None => self.park().map_or_else(|| self.device.retire(self.place), |()| None),
        };
        if let Some(proof) = proof {
            while self.queue.reclaim_next(Some(&proof)).is_some() {}
            self.queue.quiesce(&proof);
        }
    }
}
