use crate::Fault;
use core::fmt;
use core::task::Waker;
use paravirt_platform::Instant;

/// The result of [`Notify::arm`].
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Arm {
    /// Idle: the next event wakes the registered waker.
    Armed,
    /// An event raced in: drain again before sleeping.
    Pending,
    /// Nothing wakes the registered waker, as no interrupt could be bound: poll, at an interval that the kernel chooses.
    Unsignalled,
}

impl Arm {
    /// Combines the results of two queues for which one task waits: an event of either is pending, and the task may sleep only if both
    /// wake it.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Pending, _) | (_, Self::Pending) => Self::Pending,
            (Self::Unsignalled, _) | (_, Self::Unsignalled) => Self::Unsignalled,
            (Self::Armed, Self::Armed) => Self::Armed,
        }
    }
}

/// How a device signals that there is something to do.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum Signalling {
    /// By a message-signalled interrupt for each queue.
    Messages,
    /// By message-signalled interrupts that queues share.
    SharedMessages,
    /// By an interrupt line.
    Line,
    /// By the interrupts of the bus that connects it.
    Bus,
    /// Not at all: it is polled, and [`arm`](Notify::arm) returns [`Arm::Unsignalled`].
    #[default]
    Polled,
}

/// The kind of the rings between driver and host.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum RingKind {
    /// A virtqueue of separate available and used rings. VIRTIO 1.3 §2.7
    #[default]
    Split,
    /// A virtqueue of one ring that both sides write. VIRTIO 1.3 §2.8
    Packed,
    /// The two byte rings of a VMBus channel.
    Vmbus,
}

impl fmt::Display for RingKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Split => "split",
            Self::Packed => "packed",
            Self::Vmbus => "vmbus",
        })
    }
}

/// How a device is connected.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Connection {
    /// How it signals completions.
    pub signalling: Signalling,
    /// The kind of its rings.
    pub ring: RingKind,
}

impl Connection {
    /// A device that signals by `signalling`, on rings of this kind.
    pub const fn new(signalling: Signalling, ring: RingKind) -> Self {
        Self { signalling, ring }
    }
}

impl fmt::Display for Signalling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Messages => "messages",
            Self::SharedMessages => "shared-messages",
            Self::Line => "line",
            Self::Bus => "bus",
            Self::Polled => "polled",
        })
    }
}

/// Event notification of a queue or device. The crate documentation describes the protocol.
///
/// All methods are for task context. Only [`expire`](Self::expire) waits for the host. All of them may take the spin locks of the
/// queue and its device, except [`next_deadline`](Self::next_deadline), which takes none. None touches a buffer in flight, except
/// `expire`. See the [crate documentation](crate#contexts-waits-and-locks).
pub trait Notify {
    /// Enables interrupts, then checks whether an event raced in before the host could see that.
    ///
    /// Also returns [`Arm::Pending`] while the queue has aborted requests to return. This call may send requests for which there
    /// was no room before; on VMBus it handles messages of the bus.
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
    /// Blocks during a reset, until the device confirms it or the driver's timeout ends: 5 seconds on virtio, the timeout of the bus for each
    /// step of closing and opening a channel on VMBus. Sockets on VMBus do the work of [`poll`](crate::Sockets::poll) here.
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
