//! What the models have in common as PCI functions.

use crate::Guest;
use paravirt_platform::{InterruptLine, Message};

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
