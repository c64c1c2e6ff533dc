//! The register interface of a virtio device.

use crate::Guest;
use crate::guest::host_side;
use paravirt_platform::{InterruptLine, Message, Requester};
use paravirt_virtio::queue::QueueAddresses;
use paravirt_virtio::transport::{
    DeviceStatus, DeviceType, Doorbell, InterruptAck, InterruptStatus, Transport, VirtioTransport, boxed,
};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// A queue as the driver set it up.
#[derive(Copy, Clone, Debug)]
pub struct QueueState {
    /// Size and addresses of the rings.
    pub addresses: QueueAddresses,
    /// Number of the set-up, unique in the device.
    pub generation: u32,
}

/// The registers of a device, including fault injection.
pub struct Registers {
    /// Device type.
    pub device_type: DeviceType,
    /// Features offered.
    pub offered: u64,
    /// Features that the driver accepted.
    pub accepted: u64,
    /// Device status.
    pub status: DeviceStatus,
    /// Device configuration.
    pub config: Vec<u8>,
    /// Configuration generation.
    pub generation: u32,
    /// Maximum size of each queue, in entries.
    pub sizes: Vec<u16>,
    /// Queues that the driver set up.
    pub queues: Vec<Option<QueueState>>,
    /// Every register reads as all ones.
    pub is_gone: bool,
    /// What the bus reports then: that the device was removed, and accesses no memory.
    pub is_unplugged: bool,
    /// The transport has no registers by which one queue is reset.
    pub lacks_queue_reset: bool,
    /// Fault: the lowest bit of this byte of the configuration changes at each read.
    pub flickers: Option<usize>,
    /// Fault: resets are not confirmed.
    pub ignores_reset: bool,
    /// Fault: FEATURES_OK does not stick.
    pub refuses_features: bool,
    /// Fault: queues have their maximum sizes, whatever the driver sets.
    pub ignores_sizes: bool,
    /// Message-signalled interrupts that the device has.
    pub messages: u16,
    /// Whether the driver switched them on.
    pub are_messages_on: bool,
    /// Fault: they cannot be switched on.
    pub ignores_messages: bool,
    /// Whether it has the legacy interface only.
    pub is_legacy: bool,
    /// Who sends its messages.
    pub requester: Option<Requester>,
    /// Writes to the table or the control register of its messages.
    pub message_writes: u32,
    /// The message of each queue.
    pub queue_messages: Vec<Option<u16>>,
    /// The interrupt line.
    pub line: Option<InterruptLine>,
    /// Resets requested by the driver.
    pub resets: u32,
    set_ups: u32,
}

struct Shared {
    registers: Mutex<Registers>,
    kicks: Vec<AtomicU64>,
    /// The causes of the line's interrupt that were not read.
    causes: AtomicU8,
}

/// The register interface of a virtio device. A handle: clones are the same device.
#[derive(Clone)]
pub struct FakeDevice(Arc<Shared>);

impl FakeDevice {
    /// Creates a device that offers `features`, with queues of at most `sizes` entries and the configuration `config`.
    pub fn new(device_type: DeviceType, features: u64, sizes: &[u16], config: &[u8]) -> Self {
        let registers = Registers {
            device_type,
            offered: features,
            accepted: 0,
            status: DeviceStatus::empty(),
            config: config.to_vec(),
            generation: 0,
            sizes: sizes.to_vec(),
            queues: vec![None; sizes.len()],
            is_gone: false,
            is_unplugged: true,
            lacks_queue_reset: false,
            flickers: None,
            ignores_reset: false,
            refuses_features: false,
            ignores_sizes: false,
            messages: 0,
            are_messages_on: false,
            ignores_messages: false,
            is_legacy: false,
            requester: None,
            message_writes: 0,
            queue_messages: vec![None; sizes.len()],
            line: None,
            resets: 0,
            set_ups: 0,
        };
        let kicks = sizes.iter().map(|_| AtomicU64::new(0)).collect();
        Self(Arc::new(Shared { registers: Mutex::new(registers), kicks, causes: AtomicU8::new(0) }))
    }

    /// Locks the registers.
    pub fn registers(&self) -> MutexGuard<'_, Registers> {
        self.0.registers.lock().expect("registers")
    }

    /// Creates a transport for a driver of `guest`.
    pub fn transport(&self, guest: &Guest) -> Transport<Guest> {
        boxed(guest, FakeTransport(self.clone())).expect("a page")
    }

    /// Kicks of queue `index` so far.
    pub fn kicks(&self, index: usize) -> u64 {
        self.0.kicks[index].load(Ordering::SeqCst)
    }

    /// Raises the line of the device in `guest`, for these causes.
    pub fn raise_line(&self, guest: &Guest, causes: InterruptStatus) {
        self.0.causes.fetch_or(causes.bits(), Ordering::SeqCst);
        let line = self.registers().line;
        if let Some(line) = line {
            guest.raise_line(line.number);
        }
    }

    /// Queue `index` as it was set up; `None` before DRIVER_OK.
    pub fn queue(&self, index: usize) -> Option<QueueState> {
        let registers = self.registers();
        if registers.status.contains(DeviceStatus::DRIVER_OK) {
            registers.queues.get(index).copied().flatten()
        } else {
            None
        }
    }
}

/// The transport of a [`FakeDevice`].
struct FakeTransport(FakeDevice);

/// Counts a kick.
///
/// # Safety
///
/// `kicks` is that of a device that is alive.
unsafe fn ring(kicks: NonNull<()>, _queue: u16) {
    // SAFETY: the caller's promise.
    let kicks = unsafe { kicks.cast::<AtomicU64>().as_ref() };
    host_side(|| kicks.fetch_add(1, Ordering::SeqCst));
}

/// Reads the causes of an interrupt, which clears them.
///
/// # Safety
///
/// `causes` are those of a device that is alive.
unsafe fn take(causes: NonNull<()>) -> InterruptStatus {
    // SAFETY: by the contract of this function.
    let causes = unsafe { causes.cast::<AtomicU8>().as_ref() };
    InterruptStatus::from_bits_truncate(causes.swap(0, Ordering::SeqCst))
}

// SAFETY: the device side is a test's, which accesses the memory of a queue only while its registers say that the driver has set it
// up. The counters of kicks are in the shared allocation that the transport holds.
unsafe impl VirtioTransport for FakeTransport {
    fn device_type(&self) -> DeviceType {
        self.0.registers().device_type
    }
    fn is_legacy(&self) -> bool {
        self.0.registers().is_legacy
    }
    fn device_features(&mut self) -> u64 {
        let registers = self.0.registers();
        if registers.is_gone { u64::MAX } else { registers.offered }
    }
    fn set_driver_features(&mut self, features: u64) {
        self.0.registers().accepted = features;
    }
    fn status(&self) -> DeviceStatus {
        let registers = self.0.registers();
        if registers.is_gone { DeviceStatus::all() } else { registers.status }
    }
    fn set_status(&mut self, status: DeviceStatus) {
        let registers = &mut *self.0.registers();
        if status.is_empty() {
            registers.resets += 1;
            if registers.ignores_reset {
                return;
            }
            registers.queues.fill(None);
        }
        registers.status = status;
        if registers.refuses_features {
            registers.status.remove(DeviceStatus::FEATURES_OK);
        }
    }
    fn is_present(&self) -> bool {
        !self.0.registers().is_gone
    }
    fn max_queue_size(&mut self, index: u16) -> u32 {
        self.0.registers().sizes.get(usize::from(index)).map_or(0, |size| u32::from(*size))
    }
    fn set_queue_size(&mut self, index: u16, size: u16) -> u32 {
        let registers = self.0.registers();
        let largest = registers.sizes.get(usize::from(index)).copied().unwrap_or(0);
        u32::from(if registers.ignores_sizes { largest } else { size })
    }
    fn enable_queue(&mut self, index: u16, addresses: &QueueAddresses) -> bool {
        let registers = &mut *self.0.registers();
        if registers.ignores_sizes && registers.sizes.get(usize::from(index)) != Some(&addresses.size) {
            return false;
        }
        registers.set_ups += 1;
        let state = QueueState { addresses: *addresses, generation: registers.set_ups };
        match registers.queues.get_mut(usize::from(index)) {
            Some(queue) if !registers.is_gone => {
                *queue = Some(state);
                true
            }
            _ => false,
        }
    }
    fn doorbell(&mut self, index: u16) -> Option<Doorbell> {
        let kicks = self.0.0.kicks.get(usize::from(index))?;
        // SAFETY: the counter is in the shared allocation that this transport holds, and is atomic.
        Some(unsafe { Doorbell::new(NonNull::from(kicks).cast(), index, ring) })
    }
    fn can_reset_queues(&self) -> bool {
        !self.0.registers().lacks_queue_reset
    }
    fn cut_off(&mut self) -> bool {
        let registers = self.0.registers();
        registers.is_gone && registers.is_unplugged
    }
    fn start_queue_reset(&mut self, index: u16) {
        self.0.registers().queues.get_mut(usize::from(index)).into_iter().for_each(|queue| *queue = None);
    }
    fn is_queue_reset(&mut self, index: u16) -> bool {
        self.0.registers().queues.get(usize::from(index)).is_none_or(Option::is_none)
    }
    fn messages(&self) -> u16 {
        self.0.registers().messages
    }
    fn requester(&self) -> Option<Requester> {
        self.0.registers().requester
    }
    fn set_message(&mut self, _entry: u16, _message: Message) {
        self.0.registers().message_writes += 1;
    }
    fn enable_messages(&mut self) -> bool {
        let registers = &mut *self.0.registers();
        registers.message_writes += 1;
        registers.are_messages_on = registers.messages > 0 && !registers.ignores_messages;
        registers.are_messages_on
    }
    fn disable_messages(&mut self) {
        self.0.registers().message_writes += 1;
        self.0.registers().are_messages_on = false;
    }
    fn set_queue_message(&mut self, index: u16, entry: Option<u16>) -> bool {
        let registers = &mut *self.0.registers();
        let Some(message) = registers.queue_messages.get_mut(usize::from(index)) else { return false };
        *message = entry;
        entry.is_none_or(|entry| entry < registers.messages)
    }
    fn set_config_message(&mut self, entry: Option<u16>) -> bool {
        entry.is_none_or(|entry| entry < self.0.registers().messages)
    }
    fn line(&self) -> Option<InterruptLine> {
        self.0.registers().line
    }
    fn interrupt_ack(&self) -> InterruptAck {
        let causes = NonNull::from(&self.0.0.causes);
        // SAFETY: the transport holds the allocation that the causes are in; any thread may read them.
        unsafe { InterruptAck::new(causes.cast(), take) }
    }
    fn config_generation(&self) -> u32 {
        self.0.registers().generation
    }
    fn read_config(&self, fields: &[(u8, u8)], into: &mut [u8]) {
        let mut registers = self.0.registers();
        if let Some(at) = registers.flickers {
            registers.config[at] ^= 1;
        }
        for (offset, width) in fields {
            let (start, end) = (usize::from(*offset), usize::from(*offset) + usize::from(*width));
            if let (Some(to), Some(from)) = (into.get_mut(start..end), registers.config.get(start..end)) {
                to.copy_from_slice(from);
                if registers.is_gone {
                    to.fill(0xff);
                }
            }
        }
    }
    fn write_config(&mut self, offset: usize, bytes: &[u8]) -> bool {
        let registers = &mut *self.0.registers();
        match registers.config.get_mut(offset..offset + bytes.len()) {
            Some(to) => {
                to.copy_from_slice(bytes);
                true
            }
            None => false,
        }
    }
}
