//! A queue's tie to its device.

use crate::device::Core;
use crate::queue::Quiesced;
use crate::transport::{Doorbell, OpenError, VirtioTransport};
use paravirt_device::Fault;
use paravirt_platform::{PageArc, Platform};

/// A queue's tie to its device: which one it is, which generation it belongs to, and how it is kicked.
pub(crate) struct Port<P: Platform, T: VirtioTransport> {
    core: PageArc<P, Core<P, T>>,
    bell: T::Doorbell,
    place: usize,
    generation: u32,
    /// The generation in which the queue has reported in, and waits for the restart.
    drained: Option<u32>,
}

impl<P: Platform, T: VirtioTransport> Port<P, T> {
    /// The tie of queue `index`, registered at `place` in that generation, after the device was started.
    pub fn new(
        core: &PageArc<P, Core<P, T>>,
        index: u16,
        place: usize,
        generation: u32,
    ) -> Result<Self, OpenError> {
        let bell = core.doorbell(index).ok_or(OpenError::Queue)?;
        Ok(Self { core: core.clone(), bell, place, generation, drained: None })
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

    /// Resets the device because of `fault`: see [`Core::reset`].
    #[cold]
    pub fn fail(&self, fault: Fault) {
        self.core.reset(self.generation, fault);
    }

    /// Reports, once a reset, that everything was given back, then says how the device is: in service again, or with a
    /// fault.
    #[cold]
    pub fn recover(&mut self) -> Result<(), Fault> {
        // Ahead of the fault: what is in force after a further reset is not taken for the state of this one.
        let generation = self.core.generation();
        if self.drained != Some(generation) {
            self.drained = Some(generation);
            self.core.drained(self.place, generation);
        }
        match self.core.fault() {
            None => {
                self.generation = generation;
                self.drained = None;
                Ok(())
            }
            Some(fault) => Err(fault),
        }
    }

    /// Resets this queue alone, where the device can do that and is in the queue's generation.
    pub fn reset_alone(&self) -> Option<Quiesced> {
        self.core.reset_queue(self.place, self.generation)
    }

    /// Tells the device again of the queue that was reset alone; whether it accepted that.
    pub fn restart_alone(&self) -> bool {
        self.core.restart_queue(self.place, self.generation)
    }

    /// Whether the queue has given everything back after the last reset, and waits for the restart.
    pub fn is_drained(&self) -> bool {
        self.drained == Some(self.core.generation())
    }

    pub fn register(&self, waker: &core::task::Waker) {
        if let Some(cell) = self.core.cell(self.place) {
            cell.register(waker);
        }
    }
}
