use crate::guest::host_side;
use core::ops::BitAnd;
use paravirt_platform::{InterruptLine, Message};
use paravirt_virtio::queue::QueueAddresses;
use paravirt_virtio::transport::{Doorbell, InterruptReason, VirtioTransport};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{Error, PhysAddr};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// What the driver set up of a queue.
#[derive(Copy, Clone, Debug)]
pub struct QueueState {
    /// Its parts.
    pub addresses: QueueAddresses,
    /// Counts the times it was set up.
    pub generation: u32,
}

/// The registers of a device, as its host sees them.
pub struct Registers {
    /// What it is.
    pub device_type: DeviceType,
    /// What it offers.
    pub offered: u64,
    /// What the driver accepted.
    pub accepted: u64,
    /// Its status.
    pub status: DeviceStatus,
    /// Its configuration.
    pub config: Vec<u8>,
    /// The generation of that.
    pub generation: u32,
    /// The largest size of its queues; as many as it has.
    pub sizes: Vec<u16>,
    /// The queues that the driver set up.
    pub queues: Vec<Option<QueueState>>,
    /// It is gone: everything reads as all ones.
    pub is_gone: bool,
    /// It does not confirm resets.
    pub ignores_reset: bool,
    /// It drops FEATURES_OK.
    pub refuses_features: bool,
    /// Times it was reset.
    pub resets: u32,
    set_up: u32,
}

struct Shared {
    registers: Mutex<Registers>,
    kicks: Vec<AtomicU64>,
}

/// The register side of a virtio device.
#[derive(Clone)]
pub struct FakeDevice(Arc<Shared>);

impl FakeDevice {
    /// A device of that type that offers `features`, with queues of `sizes` at most, and this configuration.
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
            ignores_reset: false,
            refuses_features: false,
            resets: 0,
            set_up: 0,
        };
        let kicks = sizes.iter().map(|_| AtomicU64::new(0)).collect();
        Self(Arc::new(Shared { registers: Mutex::new(registers), kicks }))
    }

    /// Its registers.
    pub fn registers(&self) -> MutexGuard<'_, Registers> {
        self.0.registers.lock().expect("registers")
    }

    /// A transport for a driver.
    pub fn transport(&self) -> FakeTransport {
        FakeTransport(self.clone())
    }

    /// How often queue `index` was kicked.
    pub fn kicks(&self, index: usize) -> u64 {
        self.0.kicks[index].load(Ordering::SeqCst)
    }

    /// Queue `index`, once the driver runs the device.
    pub fn queue(&self, index: usize) -> Option<QueueState> {
        let registers = self.registers();
        if registers.status.contains(DeviceStatus::DRIVER_OK) { registers.queues[index] } else { None }
    }
}

/// The transport of a [`FakeDevice`].
pub struct FakeTransport(FakeDevice);

/// Counts kicks.
pub struct FakeBell {
    device: FakeDevice,
    index: usize,
}

impl Doorbell for FakeBell {
    #[inline]
    fn ring(&self) {
        host_side(|| self.device.0.kicks[self.index].fetch_add(1, Ordering::SeqCst));
    }
}

/// There are no interrupts.
pub struct FakeReason;

impl InterruptReason for FakeReason {
    fn take(&self) -> InterruptStatus {
        InterruptStatus::empty()
    }
}

impl VirtioTransport for FakeTransport {
    type Doorbell = FakeBell;
    type Reason = FakeReason;

    fn is_present(&mut self) -> bool {
        !self.0.registers().is_gone
    }
    fn enable_queue(&mut self, index: u16, addresses: &QueueAddresses) -> bool {
        let registers = &mut *self.0.registers();
        registers.set_up += 1;
        let state = QueueState { addresses: *addresses, generation: registers.set_up };
        match registers.queues.get_mut(usize::from(index)) {
            Some(queue) if !registers.is_gone => {
                *queue = Some(state);
                true
            }
            _ => false,
        }
    }
    fn doorbell(&mut self, index: u16) -> Option<FakeBell> {
        Some(FakeBell { device: self.0.clone(), index: usize::from(index) })
    }
    fn start_queue_reset(&mut self, index: u16) {
        self.0.registers().queues[usize::from(index)] = None;
    }
    fn is_queue_reset(&mut self, index: u16) -> bool {
        self.0.registers().queues[usize::from(index)].is_none()
    }
    fn messages(&mut self) -> u16 {
        0
    }
    fn set_message(&mut self, _entry: u16, _message: Message) {}
    fn enable_messages(&mut self, _on: bool) {}
    fn set_queue_message(&mut self, _index: u16, entry: Option<u16>) -> bool {
        entry.is_none()
    }
    fn set_config_message(&mut self, entry: Option<u16>) -> bool {
        entry.is_none()
    }
    fn line(&self) -> Option<InterruptLine> {
        None
    }
    fn reason(&self) -> FakeReason {
        FakeReason
    }
    fn read_config(&self, fields: &[(u8, u8)], into: &mut [u8]) {
        let registers = self.0.registers();
        for (offset, width) in fields {
            let (start, end) = (usize::from(*offset), usize::from(*offset + *width));
            if let (Some(to), Some(from)) = (into.get_mut(start..end), registers.config.get(start..end)) {
                to.copy_from_slice(from);
                if registers.is_gone {
                    to.fill(0xff);
                }
            }
        }
    }
}

impl Transport for FakeTransport {
    fn device_type(&self) -> DeviceType {
        self.0.registers().device_type
    }
    fn read_device_features(&mut self) -> u64 {
        let registers = self.0.registers();
        if registers.is_gone { u64::MAX } else { registers.offered }
    }
    fn write_driver_features(&mut self, driver_features: u64) {
        self.0.registers().accepted = driver_features;
    }
    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.0.registers().sizes.get(usize::from(queue)).map_or(0, |size| u32::from(*size))
    }
    fn notify(&mut self, queue: u16) {
        host_side(|| self.0.0.kicks[usize::from(queue)].fetch_add(1, Ordering::SeqCst));
    }
    fn get_status(&self) -> DeviceStatus {
        let registers = self.0.registers();
        if registers.is_gone { DeviceStatus::from_bits_retain(0xff) } else { registers.status }
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
    fn set_guest_page_size(&mut self, _guest_page_size: u32) {}
    fn requires_legacy_layout(&self) -> bool {
        false
    }
    fn queue_set(&mut self, queue: u16, size: u32, desc: PhysAddr, driver: PhysAddr, device: PhysAddr) {
        let bus = paravirt_platform::BusAddr;
        let addresses =
            QueueAddresses { size: size as u16, desc: bus(desc), driver: bus(driver), device: bus(device) };
        self.enable_queue(queue, &addresses);
    }
    fn queue_unset(&mut self, queue: u16) {
        self.0.registers().queues[usize::from(queue)] = None;
    }
    fn queue_used(&mut self, queue: u16) -> bool {
        self.0.registers().queues[usize::from(queue)].is_some()
    }
    fn ack_interrupt(&mut self) -> InterruptStatus {
        InterruptStatus::empty()
    }
    fn begin_init<F: bitflags::Flags<Bits = u64> + BitAnd<Output = F> + core::fmt::Debug>(
        &mut self,
        supported: F,
    ) -> F {
        let features = F::from_bits_truncate(self.read_device_features()) & supported;
        self.write_driver_features(features.bits());
        self.set_status(DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER | DeviceStatus::FEATURES_OK);
        features
    }
    fn read_config_generation(&self) -> u32 {
        self.0.registers().generation
    }
    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> virtio_drivers::Result<T> {
        let registers = self.0.registers();
        let bytes =
            registers.config.get(offset..offset + size_of::<T>()).ok_or(Error::ConfigSpaceTooSmall)?;
        T::read_from_bytes(bytes).map_err(|_| Error::ConfigSpaceTooSmall)
    }
    fn write_config_space<T: IntoBytes + Immutable>(
        &mut self,
        offset: usize,
        value: T,
    ) -> virtio_drivers::Result<()> {
        let registers = &mut *self.0.registers();
        let bytes =
            registers.config.get_mut(offset..offset + size_of::<T>()).ok_or(Error::ConfigSpaceTooSmall)?;
        bytes.copy_from_slice(value.as_bytes());
        Ok(())
    }
}
