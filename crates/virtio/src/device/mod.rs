//! The state that the queues of one device share: registers, interrupts and resets.

mod interrupts;
mod options;
mod reset;

use crate::features::Features;
use crate::queue::memory::QueueMemory;
use crate::queue::{QueueAddresses, Quiesced};
use crate::transport::{self, DeviceStatus, Doorbell, OpenError, Transport, VirtioTransport};
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use interrupts::InterruptState;
pub use options::OpenOptions;
use paravirt_device::{Arm, Connection, Fault, RingKind};
use paravirt_platform::{InterruptCell, PageArc, PageBox, PageTable, Platform, ProcessorId, Vector};
use spin::Mutex;

/// The maximum number of queues of a device: 16 pairs of a network card and its control queue.
pub(crate) const MAX_QUEUES: usize = 33;
/// The maximum size of a queue whose size the device does not let the driver choose.
const MAX_KEPT_SIZE: u16 = 1024;
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
