use crate::Fault;
use core::task::Waker;
use paravirt_platform::Instant;

/// What [`Notify::arm`] found.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Arm {
    /// There is nothing to do; the next event wakes.
    Armed,
    /// Something came in meanwhile: drain again before sleeping.
    Pending,
}

/// How a queue or device says that there is something to do. See the crate's head for the protocol.
pub trait Notify {
    /// Asks the host for an interrupt at the next event, and looks whether one came in before it could know.
    ///
    /// Answers [`Arm::Pending`] also while the queue has aborted requests to give back.
    #[must_use]
    fn arm(&mut self) -> Arm;

    /// Tells the host that no interrupt is wanted, as far as the protocol can say so: drivers of a device that is
    /// polled call it once. Interrupts may still come.
    fn disarm(&mut self);

    /// Registers the task to wake at the next event, in place of the one before. Call it before [`arm`](Self::arm).
    fn register(&mut self, waker: &Waker);

    /// The earliest deadline of what is in flight, or an earlier instant; [`Instant::NEVER`] where there is none.
    fn next_deadline(&self) -> Instant {
        Instant::NEVER
    }

    /// Starts recovery if a deadline has passed at `now`: the device or queue is reset, and what was in flight is
    /// given back as aborted by the calls that follow.
    ///
    /// # Errors
    ///
    /// The [`Fault`] where recovery failed. What was in flight is still given back, as far as the host let go.
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
