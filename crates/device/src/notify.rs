use crate::Fault;
use core::task::Waker;
use paravirt_platform::Instant;

/// The result of [`Notify::arm`].
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Arm {
    /// Idle: the next event wakes the registered waker.
    Armed,
    /// An event raced in: drain again before sleeping.
    Pending,
}

/// Event notification of a queue or device. The crate documentation describes the protocol.
///
/// All methods run in task context: the interrupt handlers of the drivers only wake the registered waker. Only
/// [`expire`](Self::expire) may block.
pub trait Notify {
    /// Enables interrupts, then checks whether an event raced in before the host could see that.
    ///
    /// Returns [`Arm::Pending`] also while the queue has aborted requests to return.
    #[must_use]
    fn arm(&mut self) -> Arm;

    /// Suppresses interrupts as far as the protocol allows; a kernel that only polls calls it once. Interrupts may still arrive.
    fn disarm(&mut self);

    /// Registers the waker to wake at the next event, in place of the previous one. Call it before [`arm`](Self::arm).
    fn register(&mut self, waker: &Waker);

    /// The earliest deadline of the requests in flight, or an earlier instant; [`Instant::NEVER`] when there is none.
    fn next_deadline(&self) -> Instant {
        Instant::NEVER
    }

    /// Starts recovery if a deadline has passed at `now`: resets the device or queue. The requests in flight are then returned as
    /// aborted, like other completions.
    ///
    /// Blocks during a reset, until the device confirms it or the driver's reset timeout ends.
    ///
    /// # Errors
    ///
    /// The [`Fault`] when recovery failed. Requests in flight are still returned, unless the device did not confirm that it
    /// quiesced: then their buffers are leaked.
    fn expire(&mut self, now: Instant) -> Result<(), Fault> {
        let _ = now;
        Ok(())
    }
}

impl<N: Notify + ?Sized> Notify for &mut N {
    fn arm(&mut self) -> Arm {
        (**self).arm()
    }
    fn disarm(&mut self) {
        (**self).disarm();
    }
    fn register(&mut self, waker: &Waker) {
        (**self).register(waker);
    }
    fn next_deadline(&self) -> Instant {
        (**self).next_deadline()
    }
    fn expire(&mut self, now: Instant) -> Result<(), Fault> {
        (**self).expire(now)
    }
}
