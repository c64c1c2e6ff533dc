//! What the models have in common as PCI functions.

use crate::Guest;
use crate::guest::host_side;
use paravirt_pci::{DeviceBox, PciDevice, device};
use paravirt_platform::{InterruptLine, Message, Requester};

/// How a function behaves on its bus.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct PciFaults {
    /// Messages that it has; 0 for its line only.
    pub messages: u16,
    /// It does not enable its messages.
    pub ignores_messages: bool,
    /// Its interrupt line.
    pub line: Option<InterruptLine>,
    /// It was removed.
    pub is_gone: bool,
    /// It stays a bus master.
    pub keeps_bus_master: bool,
}

/// The state of a function.
#[derive(Default)]
pub(crate) struct Function {
    pub faults: PciFaults,
    pub is_bus_master: bool,
    are_messages_on: bool,
    set: Vec<Option<Message>>,
}

/// An interrupt that is to be delivered once the model is not locked any more.
#[must_use]
pub(crate) enum Interrupt {
    Message(Message),
    Line(u32),
}

impl Interrupt {
    pub fn deliver(self, guest: &Guest) {
        match self {
            Self::Message(message) => guest.raise_message(message),
            Self::Line(number) => guest.raise_line(number),
        }
    }
}

impl Function {
    pub fn set_bus_master(&mut self, is_on: bool) -> bool {
        self.is_bus_master = (is_on || self.faults.keeps_bus_master) && !self.faults.is_gone;
        self.is_bus_master == is_on
    }

    pub fn set_message(&mut self, entry: u16, message: Message) {
        let entry = usize::from(entry);
        self.set.resize(self.set.len().max(entry + 1), None);
        self.set[entry] = Some(message);
    }

    pub fn enable_messages(&mut self) -> bool {
        self.are_messages_on = self.faults.messages > 0 && !self.faults.ignores_messages;
        self.are_messages_on
    }

    pub fn disable_messages(&mut self) {
        self.are_messages_on = false;
    }

    /// The interrupt that stands for message `entry`.
    pub fn interrupt(&self, entry: u16) -> Option<Interrupt> {
        if self.are_messages_on {
            return self.set.get(usize::from(entry)).copied().flatten().map(Interrupt::Message);
        }
        self.faults.line.map(|line| Interrupt::Line(line.number))
    }
}

/// A model of a device, apart from what it has in common with others.
pub(crate) trait Model: Send + Sync + 'static {
    /// Calls `work` with the state of the function.
    fn function<R>(&self, work: impl FnOnce(&mut Function) -> R) -> R;
    /// Reads a register of a device that is there.
    fn read(&self, bar: u8, offset: usize) -> u32;
    /// Writes a register of a device that is there.
    fn write(&self, bar: u8, offset: usize, value: u32);
}

/// A model as its driver sees it on its bus.
pub(crate) struct OnBus<M>(M);

impl<M: Model> OnBus<M> {
    pub fn boxed(guest: &Guest, model: M) -> DeviceBox<Guest> {
        device::boxed(guest, Self(model)).expect("memory for the device")
    }
}

// SAFETY: the models access memory only while they are bus masters.
unsafe impl<M: Model> PciDevice for OnBus<M> {
    fn read(&self, bar: u8, offset: usize) -> u32 {
        host_side(|| if self.is_gone() { u32::MAX } else { self.0.read(bar, offset) })
    }

    fn write(&self, bar: u8, offset: usize, value: u32) {
        host_side(|| {
            if !self.is_gone() {
                self.0.write(bar, offset, value);
            }
        });
    }

    fn is_gone(&self) -> bool {
        host_side(|| self.0.function(|function| function.faults.is_gone))
    }

    fn is_present(&self) -> bool {
        !self.is_gone()
    }

    fn set_bus_master(&self, is_on: bool) -> bool {
        self.0.function(|function| function.set_bus_master(is_on))
    }

    fn requester(&self) -> Option<Requester> {
        None
    }

    fn messages(&self) -> u16 {
        self.0.function(|function| function.faults.messages)
    }

    fn set_message(&self, entry: u16, message: Message) {
        self.0.function(|function| function.set_message(entry, message));
    }

    fn enable_messages(&self) -> bool {
        self.0.function(Function::enable_messages)
    }

    fn disable_messages(&self) {
        self.0.function(Function::disable_messages);
    }

    fn line(&self) -> Option<InterruptLine> {
        self.0.function(|function| function.faults.line)
    }
}
