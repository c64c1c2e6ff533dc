use crate::Fault;
use core::fmt;
use core::task::Waker;
use core::time::Duration;
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

/// Detects a host that has stopped completing what a queue has sent, for drivers. It reads no clock where requests are sent and
/// completed: [`Notify::arm`] and [`Notify::expire`] ask it.
///
/// ```
/// use core::time::Duration;
/// use paravirt_device::Watchdog;
/// use paravirt_platform::Instant;
/// let at = |seconds: u64| Instant::from_nanos(seconds * 1_000_000_000);
/// let mut watchdog = Watchdog::new(Duration::from_secs(60));
/// watchdog.arm(true, at(1));
/// assert_eq!((watchdog.deadline(), watchdog.has_expired(true, at(60))), (at(61), false));
/// watchdog.note_progress();
/// assert!(!watchdog.has_expired(true, at(61)) && watchdog.has_expired(true, at(121)));
/// ```
#[derive(Copy, Clone, Debug)]
pub struct Watchdog {
    timeout: Duration,
    until: Instant,
    has_progress: bool,
}

impl Watchdog {
    /// A watchdog that expires when nothing is completed for as long as `timeout`.
    pub const fn new(timeout: Duration) -> Self {
        Self { timeout, until: Instant::NEVER, has_progress: false }
    }

    /// Records that something was completed.
    #[inline(always)]
    pub fn note_progress(&mut self) {
        self.has_progress = true;
    }

    /// Starts to wait at `now` if something is in flight and it does not wait yet, or something was completed since.
    pub fn arm(&mut self, is_in_flight: bool, now: Instant) {
        if !is_in_flight {
            self.until = Instant::NEVER;
        } else if self.has_progress || self.until == Instant::NEVER {
            self.until = now.saturating_add(self.timeout);
        }
        self.has_progress = false;
    }

    /// When it expires; [`Instant::NEVER`] while it does not wait.
    pub fn deadline(&self) -> Instant {
        self.until
    }

    /// Returns whether it has expired at `now`: nothing was completed since it began to wait. It waits anew otherwise.
    pub fn has_expired(&mut self, is_in_flight: bool, now: Instant) -> bool {
        if is_in_flight && !self.has_progress && now >= self.until {
            self.until = Instant::NEVER;
            return true;
        }
        self.arm(is_in_flight, now);
        false
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
    /// The rings of VMware's SCSI adapter.
    Pvscsi,
    /// The rings of VMware's network card.
    Vmxnet3,
    /// Xen's rings of disks.
    Blkif,
    /// Xen's rings of network cards.
    Netif,
}

impl fmt::Display for RingKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Split => "split",
            Self::Packed => "packed",
            Self::Vmbus => "vmbus",
            Self::Pvscsi => "pvscsi",
            Self::Vmxnet3 => "vmxnet3",
            Self::Blkif => "blkif",
            Self::Netif => "netif",
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
