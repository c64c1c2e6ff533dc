//! The state that the queues of one device share: registers, interrupts and resets.
//!
//! # Reset
//!
//! A reset that cannot be limited to one queue moves the device to the next *generation*. At its next call each queue detects the
//! change, reclaims its requests in flight, reinitialises its rings and reports that it is drained; the last report restarts the
//! device. A device that violated the protocol, was removed or did not confirm the reset stays out of service instead.

use crate::features::Features;
use crate::queue::memory::QueueMemory;
use crate::queue::{QueueAddresses, Quiesced};
use crate::transport::{
    self, DeviceStatus, Doorbell, InterruptAck, InterruptStatus, OpenError, Transport, VirtioTransport,
};
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use core::time::Duration;
use paravirt_device::{Arm, Connection, Fault, RingKind, Signalling};
use paravirt_platform::{
    Handled, InterruptCell, PageArc, PageBox, PageTable, Platform, ProcessorId, RawHandler, Vector,
};
use spin::Mutex;

/// The maximum number of queues of a device: 16 pairs of a network card and its control queue.
pub(crate) const MAX_QUEUES: usize = 33;
/// The maximum size of a queue whose size the device does not let the driver choose.
const MAX_KEPT_SIZE: u16 = 1024;
/// The timeout of the reset of one queue.
const QUEUE_RESET_TIMEOUT: Duration = Duration::from_secs(5);

/// Options with which a device is opened.
#[derive(Copy, Clone, Debug)]
#[non_exhaustive]
pub struct OpenOptions {
    /// The maximum number of queues (or queue pairs) to use, usually the number of processors.
    pub queues: u16,
    /// The maximum number of entries of a queue, rounded down to a power of two. A queue has fewer if the device supports fewer.
    pub queue_size: u16,
    /// The number of processors over which the interrupts of the queues are distributed, from processor 0 on.
    pub processors: u32,
    /// The maximum number of data segments of a request, for which indirect tables have room.
    pub segments: u16,
}

impl OpenOptions {
    /// Returns the default options: one queue of 1024 entries, interrupts on the first processor, 14 segments.
    pub const fn new() -> Self {
        Self { queues: 1, queue_size: 1024, processors: 1, segments: 14 }
    }

    /// Sets [`queues`](Self::queues).
    #[must_use]
    pub const fn with_queues(self, queues: u16) -> Self {
        Self { queues, ..self }
    }

    /// Sets [`queue_size`](Self::queue_size).
    #[must_use]
    pub const fn with_queue_size(self, queue_size: u16) -> Self {
        Self { queue_size, ..self }
    }

    /// Sets [`processors`](Self::processors).
    #[must_use]
    pub const fn with_processors(self, processors: u32) -> Self {
        Self { processors, ..self }
    }

    /// Sets [`segments`](Self::segments).
    #[must_use]
    pub const fn with_segments(self, segments: u16) -> Self {
        Self { segments, ..self }
    }
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// The parameters with which a queue is enabled, when the device is started and after each reset.
#[derive(Copy, Clone)]
struct Setup {
    index: u16,
    addresses: QueueAddresses,
    message: Option<u16>,
    is_drained: bool,
    /// Whether its rings are as they were when it was registered: a restart need not wait for it.
    is_untouched: bool,
}

/// The tables are pages of their own: on a small stack there is no room for them.
struct Inner<P: Platform> {
    transport: Transport<P>,
    queues: PageTable<P, Option<Setup>>,
    /// The memory of queues that were dropped idle while the device could access it, until the next reset.
    parked: PageTable<P, Option<QueueMemory<P>>>,
    config_message: Option<u16>,
    /// Whether the interrupt line is bound.
    has_line: bool,
    /// Whether the kernel programs and enables the device's messages itself.
    is_kernels: bool,
    vectors: PageTable<P, Option<Vector>>,
    /// Whether the device confirmed the last reset and has not been given queue addresses since.
    is_quiesced: bool,
}

impl<P: Platform> Inner<P> {
    /// Frees the memory of queues that were dropped idle, if `proof` shows that the device has stopped; otherwise it stays leaked.
    fn release_parked(&mut self, proof: Option<&Quiesced>) {
        for mut memory in self.parked.iter_mut().filter_map(Option::take) {
            if let Some(proof) = proof {
                memory.set_quiesced(proof);
            }
        }
    }
}

/// The state that interrupt handlers access: a separate allocation that neither moves nor is freed until every handler has been
/// unbound.
struct InterruptState<P: Platform> {
    cells: PageTable<P, InterruptCell>,
    config_cell: InterruptCell,
    config_changed: AtomicBool,
    ack: InterruptAck,
}

impl<P: Platform> InterruptState<P> {
    fn wake_all(&self) {
        self.cells.iter().for_each(InterruptCell::wake);
        self.config_changed.store(true, Ordering::Release);
        self.config_cell.wake();
    }

    /// # Safety
    ///
    /// `data` points to an `InterruptState` that is alive.
    unsafe fn on_any(data: NonNull<()>) -> Handled {
        // SAFETY: the caller's promise; everything in it is shared by atomics.
        unsafe { data.cast::<Self>().as_ref() }.wake_all();
        Handled::Yes
    }

    /// # Safety
    ///
    /// `data` points to an `InterruptState` that is alive, of a transport that is.
    unsafe fn on_line(data: NonNull<()>) -> Handled {
        // SAFETY: the caller's promise; everything in it is shared by atomics.
        let state = unsafe { data.cast::<Self>().as_ref() };
        // SAFETY: the transport is alive, by the caller's promise.
        let why = unsafe { state.ack.take() };
        if why.contains(InterruptStatus::QUEUE) {
            state.cells.iter().for_each(InterruptCell::wake);
        }
        if why.contains(InterruptStatus::CONFIG) {
            state.config_changed.store(true, Ordering::Release);
            state.config_cell.wake();
        }
        if why.is_empty() { Handled::No } else { Handled::Yes }
    }
}

/// The shared state of a device. Queues hold it by [`PageArc`]; dropping the last reference resets the device.
pub(crate) struct VirtioDevice<P: Platform> {
    generation: AtomicU32,
    /// The [code](Fault::code) of the current fault; 0 for none.
    fault: AtomicU8,
    undrained: AtomicU16,
    /// A bit for each queue, by place: whether its completions raise an interrupt.
    signalled: AtomicU64,
    /// Whether configuration changes raise an interrupt; otherwise the configuration is polled.
    has_config_interrupts: AtomicBool,
    features: u64,
    inner: Mutex<Inner<P>>,
    /// `drop` unbinds every handler before this or the transport is freed, so that the order of the fields does not matter.
    interrupts: PageBox<P, InterruptState<P>>,
    platform: P,
}

impl<P: Platform> VirtioDevice<P> {
    /// Resets the device and negotiates features: those offered ones that `choose` returns, and always VERSION_1.
    pub fn open(
        platform: &P,
        mut transport: Transport<P>,
        choose: impl FnOnce(u64) -> u64,
    ) -> Result<PageArc<P, Self>, OpenError> {
        match transport::reset(platform, &mut *transport) {
            (_, Some(Fault::Removed)) => return Err(OpenError::Absent),
            (_, Some(_)) => return Err(OpenError::Timeout),
            (_, None) => {}
        }
        let features = transport::negotiate(&mut *transport, choose)?;
        let interrupts = InterruptState {
            cells: PageTable::new(platform, MAX_QUEUES, |_| InterruptCell::new())?,
            config_cell: InterruptCell::new(),
            config_changed: AtomicBool::new(false),
            ack: transport.interrupt_ack(),
        };
        let interrupts = PageBox::new(platform, interrupts)?;
        let inner = Inner {
            transport,
            queues: PageTable::new(platform, MAX_QUEUES, |_| None)?,
            parked: PageTable::new(platform, MAX_QUEUES, |_| None)?,
            config_message: None,
            has_line: false,
            is_kernels: false,
            vectors: PageTable::new(platform, MAX_QUEUES.saturating_add(1), |_| None)?,
            is_quiesced: true,
        };
        Ok(PageArc::new(
            platform,
            Self {
                generation: AtomicU32::new(0),
                fault: AtomicU8::new(0),
                undrained: AtomicU16::new(0),
                signalled: AtomicU64::new(0),
                has_config_interrupts: AtomicBool::new(false),
                features,
                inner: Mutex::new(inner),
                interrupts,
                platform: platform.clone(),
            },
        )?)
    }

    pub fn features(&self) -> u64 {
        self.features
    }

    pub fn platform(&self) -> &P {
        &self.platform
    }

    pub fn with_transport<R>(&self, work: impl FnOnce(&mut dyn VirtioTransport) -> R) -> R {
        work(&mut *self.inner.lock().transport)
    }

    /// Returns the size with which to use queue `index`: the largest power of two that the device offers, at most `limit`. If the
    /// device ignores a smaller size (as kvmtool does), returns the size that it keeps. Returns `None` if there is no such queue.
    ///
    /// A large queue that is used in order gets half the offered size: with the full size, QEMU 10.0 sometimes never completes the
    /// last request (observed with 128 entries and more).
    pub fn queue_size(&self, index: u16, limit: u16, in_order: bool) -> Option<u16> {
        let offered = self.with_transport(|t| t.max_queue_size(index));
        let wanted = if in_order && offered > 64 { offered >> 1 } else { offered };
        let size = u16::try_from(wanted.min(u32::from(limit.min(crate::queue::MAX_QUEUE_SIZE)))).ok()?;
        // Round down to a power of two.
        let size = 1u16 << size.checked_ilog2()?;
        if u32::from(size) == offered {
            return Some(size);
        }
        let kept = self.with_transport(|t| t.set_queue_size(index, size));
        if kept == u32::from(size) {
            return Some(size);
        }
        // The tables of the queue grow with it.
        let fixed = u16::try_from(kept).ok()?;
        (fixed.is_power_of_two() && fixed <= limit.max(MAX_KEPT_SIZE)).then_some(fixed)
    }

    /// Registers a queue, which [`start`](Self::start) enables. Returns its index in the tables of queues and interrupt cells;
    /// `None` if the table is full.
    pub fn add_queue(&self, index: u16, addresses: QueueAddresses) -> Option<usize> {
        let mut inner = self.inner.lock();
        let (place, free) = inner.queues.iter_mut().enumerate().find(|(_, q)| q.is_none())?;
        *free = Some(Setup { index, addresses, message: None, is_drained: false, is_untouched: false });
        Some(place)
    }

    /// Binds interrupts, enables the registered queues and starts the device.
    ///
    /// `processor` maps the place of each queue to the processor that handles its interrupt.
    pub fn start(&self, processor: impl Fn(usize) -> ProcessorId) -> Result<(), OpenError> {
        let inner = &mut *self.inner.lock();
        self.bind(inner, &processor);
        self.bring_up(inner)
    }

    /// Returns the doorbell of queue `index`, which [`start`](Self::start) has enabled.
    pub fn doorbell(&self, index: u16) -> Option<Doorbell> {
        self.with_transport(|t| t.doorbell(index))
    }

    /// Returns what `arm` returns for the queue at `place` when nothing is pending.
    pub fn armed(&self, place: usize) -> Arm {
        let is_signalled = self.signalled.load(Ordering::Relaxed) >> (place & 63) & 1 != 0;
        if is_signalled { Arm::Armed } else { Arm::Unsignalled }
    }

    /// Returns how the device is connected.
    pub fn connection(&self) -> Connection {
        let is_packed = self.features & Features::RING_PACKED.bits() != 0;
        Connection::new(self.signalling(), if is_packed { RingKind::Packed } else { RingKind::Split })
    }

    fn signalling(&self) -> Signalling {
        let inner = self.inner.lock();
        let signalled = self.signalled.load(Ordering::Relaxed);
        let mut messages = inner.queues.iter().flatten().map(|queue| queue.message);
        let is_shared = |message: Option<u16>| message.is_none() || message == inner.config_message;
        match messages.clone().any(|message| message.is_some()) {
            _ if signalled == 0 => Signalling::Polled,
            true if messages.any(is_shared) => Signalling::SharedMessages,
            true => Signalling::Messages,
            false => Signalling::Line,
        }
    }

    /// Binds interrupts: one message for each queue and one for the configuration, as far as the device and the platform have
    /// enough; otherwise one message for all of them; otherwise the interrupt line; otherwise none, and the driver has to poll.
    /// Takes one for each queue only if at least as many stay free for other devices.
    fn bind(&self, inner: &mut Inner<P>, processor: &dyn Fn(usize) -> ProcessorId) {
        let Inner { transport, queues, config_message, vectors, is_kernels, .. } = inner;
        let platform = self.platform.interrupts();
        let owned = transport.requester().and_then(|from| Some((from, platform.own_entries(from)?)));
        *is_kernels = owned.is_some();
        let places = queues.iter().flatten().count();
        let state = self.interrupts.as_ptr();
        let entries = owned.map_or(u16::MAX, |(_, entries)| entries).min(transport.messages());
        let mut slots = vectors.iter_mut();
        let mut message = |transport: &mut Transport<P>, entry: u16, handler: RawHandler, processor| {
            let slot = slots.next()?;
            if let Some((from, _)) = owned {
                // SAFETY: as below.
                *slot = Some(unsafe { platform.bind_entry(from, entry, handler, processor) }.ok()?);
                return Some(entry);
            }
            // SAFETY: the handler's data is part of the interrupt state, which stays until `drop` has unbound the handler.
            let vector = unsafe { platform.bind(handler, processor) }.ok()?;
            match platform.message(vector, transport.requester()) {
                Some(message) => {
                    transport.set_message(entry, message);
                    *slot = Some(vector);
                    Some(entry)
                }
                None => {
                    platform.unbind(vector);
                    None
                }
            }
        };
        let is_plenty = places.saturating_add(1).saturating_mul(2) <= platform.free_vectors() as usize;
        if usize::from(entries) > places && (is_plenty || owned.is_some()) {
            // Also serves queues for which no further message is available.
            let handler = RawHandler::new(state, InterruptState::<P>::on_any);
            *config_message = message(transport, 0, handler, processor(0));
            for (place, queue) in queues.iter_mut().flatten().enumerate() {
                if let Some(cell) = self.interrupts.cells.get(place) {
                    let entry = (place as u16).wrapping_add(1);
                    let handler = InterruptCell::handler(NonNull::from(cell));
                    queue.message = message(transport, entry, handler, processor(place)).or(*config_message);
                }
            }
        } else if entries > 0 {
            let handler = RawHandler::new(state, InterruptState::<P>::on_any);
            let shared = message(transport, 0, handler, processor(0));
            *config_message = shared;
            queues.iter_mut().flatten().for_each(|queue| queue.message = shared);
        }
        let is_bound = config_message.is_some() || queues.iter().flatten().any(|q| q.message.is_some());
        if is_bound && (*is_kernels || transport.enable_messages()) {
            self.has_config_interrupts.store(config_message.is_some(), Ordering::Relaxed);
            return;
        }
        if is_bound {
            log::warn!(
                "virtio: the device does not enable message-signalled interrupts: trying its interrupt line"
            );
            *config_message = None;
            queues.iter_mut().flatten().for_each(|queue| queue.message = None);
            inner.vectors.iter_mut().filter_map(Option::take).for_each(|vector| platform.unbind(vector));
        }
        // A function whose messages the kernel has enabled does not raise its line: it is polled.
        if owned.is_none_or(|(_, entries)| entries == 0) {
            self.bind_line(inner, processor(0));
        }
    }

    /// Binds the interrupt line, if there is one, for every queue and the configuration.
    fn bind_line(&self, inner: &mut Inner<P>, processor: ProcessorId) {
        let Inner { transport, vectors, is_kernels, .. } = inner;
        let platform = self.platform.interrupts();
        let (Some(line), Some(slot)) = (transport.line(), vectors.first_mut()) else { return };
        if !*is_kernels {
            transport.disable_messages();
        }
        let handler = RawHandler::new(self.interrupts.as_ptr(), InterruptState::<P>::on_line);
        // SAFETY: the handler's data is the interrupt state, which, like the transport, stays until `drop` has unbound the handler.
        let Ok(vector) = (unsafe { platform.bind(handler, processor) }) else { return };
        match platform.route(line, vector) {
            Ok(()) => *slot = Some(vector),
            Err(_) => platform.unbind(vector),
        }
        self.has_config_interrupts.store(slot.is_some(), Ordering::Relaxed);
        inner.has_line = slot.is_some();
    }

    /// Enables the queues of a device whose features are negotiated, and starts it. VIRTIO 1.3 §3.1.1, steps 7 and 8.
    fn bring_up(&self, inner: &mut Inner<P>) -> Result<(), OpenError> {
        let Inner { transport, queues, config_message, is_quiesced, has_line, .. } = inner;
        let mut signalled = 0u64;
        if config_message.is_some() && !transport.set_config_message(*config_message) {
            transport.set_config_message(None);
            self.has_config_interrupts.store(false, Ordering::Relaxed);
        }
        for (place, queue) in queues.iter().enumerate() {
            let Some(queue) = queue else { continue };
            let has_message = queue.message.is_some();
            let is_set = !has_message
                || transport.set_queue_message(queue.index, queue.message)
                || (config_message.is_some() && transport.set_queue_message(queue.index, *config_message));
            if !is_set {
                log::warn!(
                    "virtio: the device does not assign an interrupt message to queue {}: the queue has to be polled",
                    queue.index
                );
            }
            let is_signalled = *has_line || has_message && is_set;
            signalled |= u64::from(is_signalled) << (place & 63);
            if !transport.enable_queue(queue.index, &queue.addresses) {
                transport.set_status(DeviceStatus::FAILED);
                let (proof, _) = transport::reset(&self.platform, &mut **transport);
                *is_quiesced = proof.is_some();
                return Err(OpenError::Queue);
            }
        }
        *is_quiesced = false;
        if signalled == 0 && queues.iter().any(Option::is_some) {
            log::warn!("virtio: no interrupt can be bound for the device: its queues have to be polled");
        }
        self.signalled.store(signalled, Ordering::Relaxed);
        let mut status = DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER | DeviceStatus::DRIVER_OK;
        status.set(DeviceStatus::FEATURES_OK, !transport.is_legacy());
        transport.set_status(status);
        Ok(())
    }

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

    /// Returns the interrupt cell of the queue at `place`.
    pub fn cell(&self, place: usize) -> Option<&InterruptCell> {
        self.interrupts.cells.get(place)
    }

    pub fn config_cell(&self) -> &InterruptCell {
        &self.interrupts.config_cell
    }

    /// Makes the next [`take_config_change`](Self::take_config_change) return true.
    pub fn mark_config_changed(&self) {
        self.interrupts.config_changed.store(true, Ordering::Release);
    }

    /// Returns whether the configuration may have changed since the last call. Also resets the device if it requests a reset or
    /// has been removed.
    pub fn take_config_change(&self) -> bool {
        let changed = self.interrupts.config_changed.swap(false, Ordering::AcqRel);
        if !changed && self.has_config_interrupts.load(Ordering::Relaxed) {
            return false;
        }
        let generation = self.generation();
        if self.fault().is_none() {
            let (status, present) = self.with_transport(|t| (t.status(), t.is_present()));
            if !present {
                self.reset(generation, Fault::Removed);
            } else if status.contains(DeviceStatus::NEEDS_RESET) {
                self.reset(generation, Fault::Reset);
            }
        }
        true
    }
}

impl<P: Platform> Drop for VirtioDevice<P> {
    fn drop(&mut self) {
        let inner = self.inner.get_mut();
        let (proof, _) = transport::reset(&self.platform, &mut *inner.transport);
        inner.release_parked(proof.as_ref());
        if !inner.is_kernels {
            inner.transport.disable_messages();
        }
        for vector in inner.vectors.iter().flatten() {
            self.platform.interrupts().unbind(*vector);
        }
    }
}

impl<P: Platform> fmt::Debug for VirtioDevice<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VirtioDevice")
            .field("features", &self.features)
            .field("generation", &self.generation)
            .field("fault", &self.fault())
            .finish_non_exhaustive()
    }
}
