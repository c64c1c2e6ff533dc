//! The registers of the adapter, its commands, and its interrupt.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, Ordering};
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
    /// Whether the adapter has stopped, and was not started since: it accesses no memory.
    is_quiesced: AtomicBool,
    /// Whether it did not stop when it was to.
    is_stuck: AtomicBool,
}

impl<P: Platform> Registers<P> {
    pub fn new(device: DeviceBox<P>, bar: u8) -> Self {
        Self {
            device,
            bar,
            cell: InterruptCell::new(),
            is_quiesced: AtomicBool::new(false),
            is_stuck: AtomicBool::new(false),
        }
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

    /// Executes a command, and returns whether it succeeded. One at a time. The status is that of an earlier failure still where the adapter
    /// does not write it for this command.
    pub fn execute(&self, command: AdapterCommand, data: impl IntoIterator<Item = u32>) -> bool {
        let before = self.status();
        self.write(COMMAND, command as u32);
        data.into_iter().for_each(|word| self.write(COMMAND_DATA, word));
        let status = self.status();
        status < INCOMPLETE || status == before
    }

    /// Lets the adapter access memory. Returns whether it says that it can.
    pub fn start(&self) -> bool {
        self.is_quiesced.store(false, Ordering::Release);
        self.device.set_bus_master(true)
    }

    /// Resets the adapter, after which it knows no ring. Returns whether it accesses no memory any more.
    pub fn stop(&self) -> bool {
        self.set_interrupts(false, false);
        // Commands in flight end without completions. Only a reset forgets them: they would go on with the next bus mastering.
        let is_reset = self.execute(AdapterCommand::Reset, []);
        let is_stopped = self.device.set_bus_master(false) && (is_reset || self.is_removed());
        self.is_quiesced.store(is_stopped, Ordering::Release);
        self.is_stuck.store(!is_stopped, Ordering::Release);
        is_stopped
    }

    /// Whether memory that the adapter was given can be freed: it has stopped, or does now. One that did not stop is not asked again.
    pub fn has_released(&self) -> bool {
        let is_quiesced = self.is_quiesced.load(Ordering::Acquire);
        is_quiesced || !self.is_stuck.load(Ordering::Acquire) && self.stop()
    }

    /// Whether the adapter is not there any more.
    pub fn is_removed(&self) -> bool {
        self.device.is_gone() || !self.device.is_present()
    }

    /// As [`execute`](Self::execute) for a command that older adapters do not have: they say so before its data are written. Returns the
    /// status of a success.
    pub fn try_execute(&self, command: AdapterCommand, data: impl IntoIterator<Item = u32>) -> Option<u32> {
        self.write(COMMAND, command as u32);
        if self.status() == FAILED {
            return None;
        }
        data.into_iter().for_each(|word| self.write(COMMAND_DATA, word));
        Some(self.status()).filter(|status| *status < INCOMPLETE)
    }

    /// Announces reads and writes; the adapter may wait for more of them.
    pub fn kick_transfers(&self) {
        self.write(KICK_RW, 0);
    }

    /// Announces all requests, of any kind: the adapter looks at them at once.
    pub fn kick_all(&self) {
        self.write(KICK_NON_RW, 0);
    }

    /// Enables the interrupt for completions, and for messages if there is a ring for them; or disables it.
    pub fn set_interrupts(&self, are_on: bool, has_messages: bool) {
        let messages = if has_messages { MESSAGES } else { 0 };
        if are_on {
            // What is raised already would raise an interrupt at once; the caller looks at the rings after this.
            self.write(INTERRUPT_STATUS, COMPLETIONS | MESSAGES);
        }
        self.write(INTERRUPT_MASK, if are_on { COMPLETIONS | messages } else { 0 });
    }

    /// The handler of the interrupt line, which may be shared.
    pub fn line_handler(registers: NonNull<Self>) -> RawHandler {
        RawHandler::new(registers, Self::on_line)
    }

    /// The handler of the message. It acknowledges nothing, which would cost an exit: a message is raised for each completion, whatever the
    /// status is.
    pub fn message_handler(registers: NonNull<Self>) -> RawHandler {
        RawHandler::new(registers, Self::on_message)
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
    unsafe fn on_message(data: NonNull<()>) -> Handled {
        // SAFETY: the caller's promise; everything in them is for any processor.
        unsafe { data.cast::<Self>().as_ref() }.cell.wake();
        Handled::Yes
    }
}
