//! A queue's tie to its device.

use crate::device::Core;
use crate::transport::{Doorbell, OpenError, VirtioTransport};
use paravirt_device::Fault;
use paravirt_platform::{Interrupts, PageArc};

/// A queue's tie to its device: which one it is, which generation it belongs to, and how it is kicked.
pub(crate) struct Port<P: Interrupts, T: VirtioTransport> {
    core: PageArc<P, Core<P, T>>,
    bell: T::Doorbell,
    place: usize,
    generation: u32,
    /// Whether the queue has reported in after the last reset and waits for the restart.
    drained: bool,
}

impl<P: Interrupts, T: VirtioTransport> Port<P, T> {
    /// The tie of queue `index`, registered at `place`, after the device was started.
    pub fn new(core: &PageArc<P, Core<P, T>>, index: u16, place: usize) -> Result<Self, OpenError> {
        let bell = core.doorbell(index).ok_or(OpenError::Queue)?;
        Ok(Self { core: core.clone(), bell, place, generation: core.generation(), drained: false })
    }

    pub fn core(&self) -> &PageArc<P, Core<P, T>> {
        &self.core
    }

    pub fn place(&self) -> usize {
        self.place
    }

    /// Whether the device is in the queue's generation: the data path.
    #[inline(always)]
    pub fn is_current(&self) -> bool {
        self.core.generation() == self.generation
    }

    #[inline(always)]
    pub fn ring(&self) {
        self.bell.ring();
    }

    /// Resets the device because of `fault`, and returns it.
    #[cold]
    pub fn fail(&self, fault: Fault) -> Fault {
        self.core.reset(self.generation, fault);
        fault
    }

    /// Reports, once, that everything was given back, then says how the device is: in service again, or with a fault.
    #[cold]
    pub fn recover(&mut self) -> Result<(), Fault> {
        if !self.drained {
            self.drained = true;
            self.core.drained(self.place);
        }
        match self.core.fault() {
            None => {
                self.generation = self.core.generation();
                self.drained = false;
                Ok(())
            }
            Some(fault) => Err(fault),
        }
    }

    /// Whether the queue has given everything back after the last reset, and waits for the restart.
    pub fn is_drained(&self) -> bool {
        self.drained
    }

    pub fn register(&self, waker: &core::task::Waker) {
        if let Some(cell) = self.core.cell(self.place) {
            cell.register(waker);
        }
    }
}
