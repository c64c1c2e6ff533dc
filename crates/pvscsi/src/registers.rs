//! The registers of the adapter, its commands, and its interrupt.

use core::ptr::NonNull;
use paravirt_pci::{DeviceBox, PciDevice};
use paravirt_platform::{Handled, InterruptCell, Platform, RawHandler};

/// Bytes of the register block.
pub(crate) const REGISTERS_LEN: u32 = 0x8000;

const COMMAND: usize = 0x0000;
const COMMAND_DATA: usize = 0x0004;
const COMMAND_STATUS: usize = 0x0008;
const INTERRUPT_STATUS: usize = 0x100c;
const INTERRUPT_MASK: usize = 0x2010;
const KICK_NON_RW: usize = 0x3014;
const KICK_RW: usize = 0x4018;

/// Interrupt status and mask: a completion, and a message, of two bits each.
const COMPLETIONS: u32 = 0b0011;
const MESSAGES: u32 = 0b1100;

/// Commands of the adapter. Their data are words that are written one after another; a command is executed after the last one.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum AdapterCommand {
    Reset = 1,
    SetupRings = 3,
    ResetBus = 4,
    Abort = 6,
    Config = 7,
    SetupMessageRing = 8,
    SetupCallThreshold = 10,
}

/// The status of a command that failed or is not known, and of one whose data are not complete. Any other one is that of a success: QEMU
/// returns the number of words for some commands.
const FAILED: u32 = u32::MAX;
const INCOMPLETE: u32 = u32::MAX - 1;

/// The adapter's registers, and the task that its interrupt wakes. It is shared with interrupt handlers, so that it neither moves nor is
/// freed before they have been unbound.
pub(crate) struct Registers<P: Platform> {
    device: DeviceBox<P>,
    bar: u8,
    pub cell: InterruptCell,
}

impl<P: Platform> Registers<P> {
    pub fn new(device: DeviceBox<P>, bar: u8) -> Self {
        Self { device, bar, cell: InterruptCell::new() }
    }

    pub fn device(&self) -> &dyn PciDevice {
        &*self.device
    }

    fn write(&self, register: usize, value: u32) {
        self.device.write(self.bar, register, value);
    }

    fn status(&self) -> u32 {
        self.device.read(self.bar, COMMAND_STATUS)
    }

    /// Executes a command, and returns whether it succeeded. One at a time.
    pub fn execute(&self, command: AdapterCommand, data: impl IntoIterator<Item = u32>) -> bool {
        self.write(COMMAND, command as u32);
        data.into_iter().for_each(|word| self.write(COMMAND_DATA, word));
        self.status() < INCOMPLETE
    }

    /// Resets the adapter. Returns whether it did not fail.
    pub fn reset(&self) -> bool {
        self.write(COMMAND, AdapterCommand::Reset as u32);
        self.status() < INCOMPLETE
    }

    /// As [`execute`](Self::execute) for a command that older adapters do not have: they say so before its data are written.
    pub fn try_execute(&self, command: AdapterCommand, data: impl IntoIterator<Item = u32>) -> bool {
        self.write(COMMAND, command as u32);
        if self.status() == FAILED {
            return false;
        }
        data.into_iter().for_each(|word| self.write(COMMAND_DATA, word));
        self.status() < INCOMPLETE
    }

    /// Announces reads and writes; the adapter may wait for more of them.
    pub fn kick_transfers(&self) {
        self.write(KICK_RW, 0);
    }

    /// Announces other commands.
    pub fn kick_others(&self) {
        self.write(KICK_NON_RW, 0);
    }

    /// Enables the interrupt for completions, and for messages if there is a ring for them; or disables it.
    pub fn set_interrupts(&self, are_on: bool, has_messages: bool) {
        let messages = if has_messages { MESSAGES } else { 0 };
        self.write(INTERRUPT_MASK, if are_on { COMPLETIONS | messages } else { 0 });
    }

    /// The handler of the interrupt line, which may be shared.
    pub fn line_handler(registers: NonNull<Self>) -> RawHandler {
        RawHandler::new(registers, Self::on_line)
    }

    /// The handler of the message; `is_msix` if it is one of MSI-X, with which nothing has to be acknowledged.
    pub fn message_handler(registers: NonNull<Self>, is_msix: bool) -> RawHandler {
        RawHandler::new(registers, if is_msix { Self::on_msix } else { Self::on_msi })
    }

    /// # Safety
    ///
    /// `data` points to live `Registers`.
    unsafe fn on_line(data: NonNull<()>) -> Handled {
        // SAFETY: the caller's promise; everything in them is for any processor.
        let registers = unsafe { data.cast::<Self>().as_ref() };
        let status = registers.device.read(registers.bar, INTERRUPT_STATUS);
        let raised = status & (COMPLETIONS | MESSAGES);
        if status == u32::MAX || raised == 0 {
            return Handled::No;
        }
        registers.write(INTERRUPT_STATUS, raised);
        registers.cell.wake();
        Handled::Yes
    }

    /// # Safety
    ///
    /// `data` points to live `Registers`.
    unsafe fn on_msi(data: NonNull<()>) -> Handled {
        // SAFETY: the caller's promise; everything in them is for any processor.
        let registers = unsafe { data.cast::<Self>().as_ref() };
        registers.write(INTERRUPT_STATUS, COMPLETIONS | MESSAGES);
        registers.cell.wake();
        Handled::Yes
    }

    /// # Safety
    ///
    /// `data` points to live `Registers`.
    unsafe fn on_msix(data: NonNull<()>) -> Handled {
        // SAFETY: the caller's promise; everything in them is for any processor.
        unsafe { data.cast::<Self>().as_ref() }.cell.wake();
        Handled::Yes
    }
}
