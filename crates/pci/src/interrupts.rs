//! Interrupts of a PCI device, bound to handlers.

use crate::PciDevice;
use core::fmt;
use paravirt_platform::{AllocError, PageTable, Platform, ProcessorId, RawHandler, Vector};

/// How the interrupts of a device were bound.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Bound {
    /// One message for each handler.
    Messages,
    /// One message for all.
    SharedMessage,
    /// The interrupt line.
    Line,
    /// None: the device is polled.
    Nothing,
}

/// The handlers of a device, as [`InterruptBinding::bind`] binds them.
pub struct Handlers<'a> {
    /// The number of messages that the driver can use, each with a handler of its own.
    pub count: u16,
    /// The handler of a message, and where it would best be handled.
    pub each: &'a dyn Fn(u16) -> (RawHandler, ProcessorId),
    /// The handler of a message that stands for all of them.
    pub shared: RawHandler,
    /// The handler of the interrupt line, which asks the device whether it has raised it.
    pub line: RawHandler,
}

impl fmt::Debug for Handlers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handlers").field("count", &self.count).finish_non_exhaustive()
    }
}

/// The interrupts of a PCI device, bound until this value is dropped.
pub struct InterruptBinding<P: Platform> {
    platform: P,
    vectors: PageTable<P, Option<Vector>>,
    bound: Bound,
}

impl<P: Platform> InterruptBinding<P> {
    /// Room for up to `most` handlers, of which none is bound.
    ///
    /// # Errors
    ///
    /// [`AllocError`] if the platform has no memory.
    pub fn new(platform: &P, most: u16) -> Result<Self, AllocError> {
        let vectors = PageTable::new(platform, usize::from(most.max(1)), |_| None)?;
        Ok(Self { platform: platform.clone(), vectors, bound: Bound::Nothing })
    }

    /// Returns how the interrupts are bound.
    pub fn bound(&self) -> Bound {
        self.bound
    }

    /// Binds one message for each handler if the device and the platform have enough, and at least as many stay free for other devices;
    /// otherwise one message for all of them; otherwise the interrupt line; otherwise nothing. Where the kernel programs the messages of
    /// the device itself ([`own_entries`](paravirt_platform::Interrupts::own_entries)), handlers are bound to them, and nothing is
    /// written to the device.
    ///
    /// # Safety
    ///
    /// What the handlers point to lives until this value has been dropped, or [`unbind`](Self::unbind) has returned.
    pub unsafe fn bind(&mut self, device: &dyn PciDevice, handlers: &Handlers<'_>) -> Bound {
        self.unbind(device);
        let most = u16::try_from(self.vectors.len()).unwrap_or(u16::MAX);
        let owned = self.own_entries(device);
        let available = owned.unwrap_or_else(|| device.messages()).min(most);
        let is_plenty = usize::from(handlers.count).saturating_mul(2)
            <= self.platform.interrupts().free_vectors() as usize;
        let is_ready = |this: &Self| owned.is_some() || this.enable(device);
        // SAFETY: by the contract of this function, for each call.
        unsafe {
            if handlers.count <= available && (is_plenty || owned.is_some()) {
                let are_bound = (0..handlers.count).all(|entry| {
                    let (handler, processor) = (handlers.each)(entry);
                    self.bind_message(device, entry, handler, processor)
                });
                if are_bound && is_ready(self) {
                    self.bound = Bound::Messages;
                    return self.bound;
                }
                self.unbind(device);
            }
            if available > 0 {
                if self.bind_message(device, 0, handlers.shared, ProcessorId(0)) && is_ready(self) {
                    self.bound = Bound::SharedMessage;
                    return self.bound;
                }
                self.unbind(device);
            }
            // A function whose messages the kernel has enabled does not raise its line.
            if owned.is_none_or(|entries| entries == 0) && self.bind_line(device, handlers.line) {
                self.bound = Bound::Line;
            }
        }
        if self.bound == Bound::Nothing {
            log::warn!("pci: no interrupt can be bound for a device: it has to be polled");
        }
        self.bound
    }

    fn enable(&self, device: &dyn PciDevice) -> bool {
        let is_enabled = device.enable_messages();
        if !is_enabled {
            log::warn!("pci: a device does not enable its messages: trying its interrupt line");
        }
        is_enabled
    }

    /// How many messages of the device the kernel programs itself.
    fn own_entries(&self, device: &dyn PciDevice) -> Option<u16> {
        self.platform.interrupts().own_entries(device.requester()?)
    }

    /// # Safety
    ///
    /// As for [`bind`](Self::bind).
    unsafe fn bind_message(
        &mut self,
        device: &dyn PciDevice,
        entry: u16,
        handler: RawHandler,
        processor: ProcessorId,
    ) -> bool {
        let Some(slot) = self.vectors.get_mut(usize::from(entry)) else { return false };
        let (interrupts, from) = (self.platform.interrupts(), device.requester());
        if let Some(from) = from.filter(|from| interrupts.own_entries(*from).is_some()) {
            // SAFETY: by the contract of this function.
            *slot = unsafe { interrupts.bind_entry(from, entry, handler, processor) }.ok();
            return slot.is_some();
        }
        // SAFETY: by the contract of this function.
        let Ok(vector) = (unsafe { interrupts.bind(handler, processor) }) else { return false };
        match interrupts.message(vector, from) {
            Some(message) => {
                device.set_message(entry, message);
                *slot = Some(vector);
            }
            None => interrupts.unbind(vector),
        }
        slot.is_some()
    }

    /// # Safety
    ///
    /// As for [`bind`](Self::bind).
    unsafe fn bind_line(&mut self, device: &dyn PciDevice, handler: RawHandler) -> bool {
        let (Some(line), Some(slot)) = (device.line(), self.vectors.first_mut()) else { return false };
        let interrupts = self.platform.interrupts();
        // SAFETY: by the contract of this function.
        let Ok(vector) = (unsafe { interrupts.bind(handler, ProcessorId(0)) }) else { return false };
        match interrupts.route(line, vector) {
            Ok(()) => *slot = Some(vector),
            Err(_) => interrupts.unbind(vector),
        }
        slot.is_some()
    }

    /// Unbinds the handlers: blocks until they run on no processor. The device raises no messages then.
    pub fn unbind(&mut self, device: &dyn PciDevice) {
        if self.own_entries(device).is_none() {
            device.disable_messages();
        }
        self.release();
    }

    fn release(&mut self) {
        self.bound = Bound::Nothing;
        for vector in self.vectors.iter_mut().filter_map(Option::take) {
            self.platform.interrupts().unbind(vector);
        }
    }
}

impl<P: Platform> Drop for InterruptBinding<P> {
    fn drop(&mut self) {
        self.release();
    }
}

impl<P: Platform> fmt::Debug for InterruptBinding<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InterruptBinding").field("bound", &self.bound).finish_non_exhaustive()
    }
}
