//! A queue of a device as its owner has it: brought to the state of the device, and put back when it is dropped.

use crate::device::{Device, DeviceClass, FrontQueue, SlotBox};
use core::fmt;
use core::mem::ManuallyDrop;
use core::task::Waker;
use paravirt_device::Fault;
use paravirt_platform::{PageArc, Platform};

/// A queue that was taken out of its device, and is put back when this is dropped. What is in flight then is dropped when the device is
/// closed.
pub struct OwnedQueue<P: Platform, C: DeviceClass<P>> {
    slot: ManuallyDrop<SlotBox<P, C::Queue>>,
    device: PageArc<P, Device<P, C>>,
    /// The gate of the device at which the queue was last in service.
    gate: u32,
    /// For the event channel after the next reset.
    waker: Option<Waker>,
}

impl<P: Platform, C: DeviceClass<P>> OwnedQueue<P, C> {
    /// Takes queue `index` of `device`, once. Takes a lock.
    pub fn take(device: &PageArc<P, Device<P, C>>, index: u16) -> Option<Self> {
        let slot = ManuallyDrop::new(device.take(index)?);
        // Not a gate of a device in service: the first call looks.
        Some(Self { slot, device: device.clone(), gate: 1, waker: None })
    }

    /// Returns the device.
    pub fn device(&self) -> &Device<P, C> {
        &self.device
    }

    /// Whether the queue may go on: the device has been in service since the last [`sync`](Self::sync).
    #[inline(always)]
    pub fn is_open(&self) -> bool {
        self.device.gate() == self.gate
    }

    /// Returns the gate of the device at which the queue was last in service.
    pub fn gate(&self) -> u32 {
        self.gate
    }

    /// Returns the queue.
    #[inline(always)]
    pub fn queue(&self) -> &C::Queue {
        &self.slot.queue
    }

    /// Returns the queue, to be used.
    #[inline(always)]
    pub fn queue_mut(&mut self) -> &mut C::Queue {
        &mut self.slot.queue
    }

    /// Brings the queue to the state of the device. Blocks for the backend if the queue is the last one of a reset.
    ///
    /// # Errors
    ///
    /// The fault, while the device is out of service: [`Fault::Reset`] while it waits for other queues, after which it wakes the task.
    #[cold]
    pub fn sync(&mut self) -> Result<(), Fault> {
        self.gate = self.device.sync(&mut self.slot)?;
        self.register_ports();
        Ok(())
    }

    fn register_ports(&self) {
        if let Some(waker) = &self.waker {
            self.slot.queue.for_each_port(&mut |port| port.register(waker));
        }
    }

    /// Sets the task that events of the queue wake, and that is woken when the device goes out of service or comes back.
    pub fn register(&mut self, waker: &Waker) {
        self.device.register(self.slot.index, waker);
        if !self.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            self.waker = Some(waker.clone());
        }
        self.register_ports();
    }

    /// Disables the interrupts of the queue.
    pub fn disarm(&self) {
        self.slot.queue.for_each_port(&mut |port| port.disarm());
    }
}

impl<P: Platform, C: DeviceClass<P>> Drop for OwnedQueue<P, C> {
    fn drop(&mut self) {
        self.disarm();
        // SAFETY: it is taken once, here, and not used after.
        let slot = unsafe { ManuallyDrop::take(&mut self.slot) };
        self.device.put_back(slot);
    }
}

impl<P: Platform, C: DeviceClass<P, Queue: fmt::Debug>> fmt::Debug for OwnedQueue<P, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnedQueue").field("slot", &**self.slot).finish_non_exhaustive()
    }
}
