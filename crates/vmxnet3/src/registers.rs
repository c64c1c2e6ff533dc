//! The registers of the card, its commands, and the handlers of its interrupts.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, Ordering};
use paravirt_pci::{DeviceBox, PciDevice};
use paravirt_platform::{AllocError, Handled, InterruptCell, PageTable, Platform, ProcessorId, RawHandler};

/// The BARs: doorbells and masks, and everything else.
pub(crate) const DOORBELLS: u8 = 0;
pub(crate) const REGISTERS: u8 = 1;
/// Bytes of each.
pub(crate) const BAR_LEN: u32 = 0x1000;

/// Offsets in the first BAR.
const MASK: usize = 0x000;
const TX_PRODUCER: usize = 0x600;
const RX_PRODUCER: usize = 0x800;
const RX_PRODUCER_2: usize = 0xa00;
/// Distance of the registers of neighbouring vectors and queues.
const STRIDE: usize = 8;

/// Offsets in the second BAR.
const REVISIONS: usize = 0x00;
const UPT_VERSIONS: usize = 0x08;
const SHARED_LOW: usize = 0x10;
const SHARED_HIGH: usize = 0x18;
const COMMAND: usize = 0x20;
const MAC_LOW: usize = 0x28;
const MAC_HIGH: usize = 0x30;
const INTERRUPT_CAUSE: usize = 0x38;
const EVENT_CAUSE: usize = 0x40;

/// Commands of the card.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[repr(u32)]
pub(crate) enum CardCommand {
    Activate = 0xcafe_0000,
    Quiesce = 0xcafe_0001,
    Reset = 0xcafe_0002,
    UpdateReceiveMode = 0xcafe_0003,
    UpdateMacFilters = 0xcafe_0004,
    UpdateVlanFilters = 0xcafe_0005,
    UpdateRssTable = 0xcafe_0006,
    UpdateFeatures = 0xcafe_0009,
    QueueStatus = 0xf00d_0000,
    Link = 0xf00d_0002,
}

/// A vector of the card.
pub(crate) struct CardVector {
    pub cell: InterruptCell,
    /// The card masks a vector as it raises it, until the guest unmasks it.
    is_masked: AtomicBool,
}

/// The card's registers, and the tasks that its interrupts wake. They are shared with interrupt handlers, so that they neither move nor are
/// freed before these have been unbound.
pub(crate) struct Registers<P: Platform> {
    device: DeviceBox<P>,
    vectors: PageTable<P, CardVector>,
    has_interrupts: AtomicBool,
    /// All vectors of the driver are the card's first one.
    is_shared: AtomicBool,
}

impl<P: Platform> Registers<P> {
    /// The registers of `device`, with `vectors` vectors.
    pub fn new(platform: &P, device: DeviceBox<P>, vectors: u16) -> Result<Self, AllocError> {
        let vectors = PageTable::new(platform, usize::from(vectors), |_| CardVector {
            cell: InterruptCell::new(),
            is_masked: AtomicBool::new(true),
        })?;
        let (has_interrupts, is_shared) = (AtomicBool::new(false), AtomicBool::new(true));
        Ok(Self { device, vectors, has_interrupts, is_shared })
    }

    pub fn device(&self) -> &dyn PciDevice {
        &*self.device
    }

    fn read(&self, register: usize) -> u32 {
        self.device.read(REGISTERS, register)
    }

    fn write(&self, register: usize, value: u32) {
        self.device.write(REGISTERS, register, value);
    }

    fn ring(&self, doorbell: usize, index: u16, value: u32) {
        let offset = usize::from(index).wrapping_mul(STRIDE).wrapping_add(doorbell);
        self.device.write(DOORBELLS, offset, value);
    }

    /// The revisions that the card offers, a bit each, and the versions of its pass-through interface; 0 if there is no card.
    pub fn versions(&self) -> (u32, u32) {
        let value = |register| match self.read(register) {
            u32::MAX => 0,
            versions => versions,
        };
        (value(REVISIONS), value(UPT_VERSIONS))
    }

    /// Chooses one of each.
    pub fn set_versions(&self, revision: u32, upt: u32) {
        self.write(REVISIONS, revision);
        self.write(UPT_VERSIONS, upt);
    }

    /// Tells the card where the shared area is.
    pub fn set_shared_area(&self, address: u64) {
        self.write(SHARED_LOW, address as u32);
        self.write(SHARED_HIGH, (address >> 32) as u32);
    }

    /// Executes a command that has no result. One at a time.
    pub fn execute(&self, command: CardCommand) {
        self.write(COMMAND, command as u32);
    }

    /// Executes a command, and returns its result.
    pub fn ask(&self, command: CardCommand) -> u32 {
        self.write(COMMAND, command as u32);
        self.read(COMMAND)
    }

    pub fn mac(&self) -> [u8; 6] {
        let [a, b, c, d] = self.read(MAC_LOW).to_le_bytes();
        let [e, f, ..] = self.read(MAC_HIGH).to_le_bytes();
        [a, b, c, d, e, f]
    }

    pub fn set_mac(&self, [a, b, c, d, e, f]: [u8; 6]) {
        self.write(MAC_LOW, u32::from_le_bytes([a, b, c, d]));
        self.write(MAC_HIGH, u32::from_le_bytes([e, f, 0, 0]));
    }

    /// Acknowledges events.
    pub fn acknowledge(&self, events: u32) {
        self.write(EVENT_CAUSE, events);
    }

    /// Announces transmit descriptors before `index`.
    pub fn ring_tx(&self, queue: u16, index: u32) {
        self.ring(TX_PRODUCER, queue, index);
    }

    /// Announces receive descriptors before `index` of the first or the second ring.
    pub fn ring_rx(&self, queue: u16, is_second: bool, index: u32) {
        self.ring(if is_second { RX_PRODUCER_2 } else { RX_PRODUCER }, queue, index);
    }

    /// The number of vectors of the driver.
    pub fn vector_count(&self) -> u16 {
        self.vectors.len() as u16
    }

    pub fn cell(&self, vector: u16) -> Option<&InterruptCell> {
        self.vectors.get(usize::from(vector)).map(|vector| &vector.cell)
    }

    pub fn has_interrupts(&self) -> bool {
        self.has_interrupts.load(Ordering::Relaxed)
    }

    /// The vectors of the card that a vector of the driver is.
    pub fn on_card(&self, vector: u16) -> u16 {
        if self.is_shared.load(Ordering::Relaxed) { 0 } else { vector }
    }

    /// Records how the interrupts are bound.
    pub fn set_bound(&self, has_interrupts: bool, is_shared: bool) {
        self.has_interrupts.store(has_interrupts, Ordering::Relaxed);
        self.is_shared.store(is_shared, Ordering::Relaxed);
    }

    /// Lets the card raise a vector. Writes a register only if the vector was masked.
    pub fn unmask(&self, vector: u16) {
        let vector = self.on_card(vector);
        let state = self.vectors.get(usize::from(vector));
        if state.is_some_and(|state| state.is_masked.swap(false, Ordering::AcqRel)) {
            self.ring(MASK, vector, 0);
        }
    }

    /// Keeps the card from raising a vector, unless others share it.
    pub fn mask(&self, vector: u16) {
        if self.is_shared.load(Ordering::Relaxed) {
            return;
        }
        let state = self.vectors.get(usize::from(vector));
        if state.is_some_and(|state| !state.is_masked.swap(true, Ordering::AcqRel)) {
            self.ring(MASK, vector, 1);
        }
    }

    /// Masks all vectors, whatever is known of them: a card forgets that when it is reset. The tasks unmask theirs again when they arm.
    pub fn mask_all(&self) {
        for (vector, state) in (0u16..).zip(self.vectors.iter()) {
            self.ring(MASK, vector, 1);
            state.is_masked.store(true, Ordering::Release);
        }
    }

    pub fn wake_all(&self) {
        self.vectors.iter().for_each(|vector| vector.cell.wake());
    }

    /// The handler of the message of `vector`, and where it is best handled if pair `n` is used by processor `n`.
    pub fn handler(&self, vector: u16, processor: ProcessorId) -> (RawHandler, ProcessorId) {
        match self.vectors.get(usize::from(vector)) {
            Some(vector) => (RawHandler::new(NonNull::from(vector), on_vector), processor),
            None => (Self::shared_handler(NonNull::from(self)), processor),
        }
    }

    /// The handler of a message that stands for all vectors.
    pub fn shared_handler(registers: NonNull<Self>) -> RawHandler {
        RawHandler::new(registers, Self::on_shared)
    }

    /// The handler of the interrupt line, which may be shared.
    pub fn line_handler(registers: NonNull<Self>) -> RawHandler {
        RawHandler::new(registers, Self::on_line)
    }

    /// # Safety
    ///
    /// `data` points to live `Registers`.
    unsafe fn on_shared(data: NonNull<()>) -> Handled {
        // SAFETY: the caller's promise; everything in them is for any processor.
        let registers = unsafe { data.cast::<Self>().as_ref() };
        registers.vectors.first().iter().for_each(|vector| vector.is_masked.store(true, Ordering::Release));
        registers.wake_all();
        Handled::Yes
    }

    /// # Safety
    ///
    /// `data` points to live `Registers`.
    unsafe fn on_line(data: NonNull<()>) -> Handled {
        // SAFETY: the caller's promise; everything in them is for any processor.
        let registers = unsafe { data.cast::<Self>().as_ref() };
        // Reading clears it.
        match registers.read(INTERRUPT_CAUSE) {
            0 | u32::MAX => Handled::No,
            // SAFETY: the caller's promise.
            _ => unsafe { Self::on_shared(data) },
        }
    }
}

/// # Safety
///
/// `data` points to a live `CardVector`.
unsafe fn on_vector(data: NonNull<()>) -> Handled {
    // SAFETY: the caller's promise; everything in it is for any processor.
    let vector = unsafe { data.cast::<CardVector>().as_ref() };
    // The card has masked it.
    vector.is_masked.store(true, Ordering::Release);
    vector.cell.wake();
    Handled::Yes
}
