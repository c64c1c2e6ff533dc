use crate::{Arm, Connection, ControlError, Fault, IoError, Notify, Rejected, RingKind, Signalling};
use bitflags::bitflags;
use core::{fmt, task::Waker};
use paravirt_platform::{DmaBuffer, Instant};

/// An Ethernet address.
#[derive(Copy, Clone, Default, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub struct MacAddr(pub [u8; 6]);

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The tag control information of an IEEE 802.1Q tag that is carried in metadata, not in the frame.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct VlanTag(pub u16);

/// A partial checksum: the sum from byte `start` of the frame to its end, to be stored at byte `start + offset`, where the
/// frame already holds the sum of the pseudo-header.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct ChecksumRange {
    /// The offset in bytes, from the start of the frame, at which the sum begins.
    pub start: u16,
    /// The offset of the checksum field in bytes from `start`.
    pub offset: u16,
}

/// The protocol of a segmented frame.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum SegmentKind {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP over IPv4 or IPv6.
    Udp,
}

/// Segmentation of a frame larger than the MTU, which is or was several frames on the wire.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Segmentation {
    /// The protocol.
    pub kind: SegmentKind,
    /// The maximum segment size on the wire in payload bytes, at least 1.
    pub size: u16,
    /// The length in bytes of the headers that each segment repeats: Ethernet, IP and TCP or UDP.
    pub headers: u16,
}

/// The offloads that a frame to be sent asks for.
///
/// ```
/// use paravirt_device::{TxMeta, VlanTag};
/// let meta = TxMeta::new().with_vlan(VlanTag(5));
/// assert_eq!((meta.vlan, meta.checksum), (Some(VlanTag(5)), None));
/// ```
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct TxMeta {
    /// The checksum that the host fills in; requires [`Offloads::TX_CHECKSUM`].
    pub checksum: Option<ChecksumRange>,
    /// How the host segments the frame; requires `checksum` and the offload of the protocol.
    pub segmentation: Option<Segmentation>,
    /// The VLAN tag that the host inserts.
    pub vlan: Option<VlanTag>,
}

impl TxMeta {
    /// A frame without offloads.
    pub const fn new() -> Self {
        Self { checksum: None, segmentation: None, vlan: None }
    }

    /// Asks the host to fill in a checksum; requires [`Offloads::TX_CHECKSUM`].
    #[must_use]
    pub const fn with_checksum(mut self, range: ChecksumRange) -> Self {
        self.checksum = Some(range);
        self
    }

    /// Asks the host to segment the frame; requires a checksum and the offload of the protocol.
    #[must_use]
    pub const fn with_segmentation(mut self, segmentation: Segmentation) -> Self {
        self.segmentation = Some(segmentation);
        self
    }

    /// Asks the host to insert a VLAN tag.
    #[must_use]
    pub const fn with_vlan(mut self, tag: VlanTag) -> Self {
        self.vlan = Some(tag);
        self
    }
}

/// The state of the checksum of a received frame. Later versions may add states: treat an unrecognised one as
/// [`Unknown`](Self::Unknown).
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum RxChecksum {
    /// Not verified: the guest verifies it.
    #[default]
    Unknown,
    /// Verified by the host.
    Valid,
    /// Never computed, since the frame did not leave the host: the data are valid, and the field holds only the sum of the
    /// pseudo-header.
    Partial(ChecksumRange),
}

/// The metadata of a received frame.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct RxMeta {
    /// The state of the checksum.
    pub checksum: RxChecksum,
    /// How the frame was segmented on the wire; `None` for a frame that was not coalesced.
    pub segmentation: Option<Segmentation>,
    /// The VLAN tag that the host removed from the frame.
    pub vlan: Option<VlanTag>,
}

impl RxMeta {
    /// A frame with this state of its checksum, neither coalesced nor tagged.
    pub const fn new(checksum: RxChecksum) -> Self {
        Self { checksum, segmentation: None, vlan: None }
    }
}

/// A received frame; [`NetRx::segment`] returns its bytes.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct RxFrame {
    /// The length in bytes from the Ethernet header on, without the frame check sequence.
    pub len: usize,
    /// The number of segments in memory, at least 1.
    pub segments: u16,
    /// The metadata.
    pub meta: RxMeta,
}

impl RxFrame {
    /// A frame of `len` bytes in `segments` segments, for drivers.
    #[inline(always)]
    pub const fn new(len: usize, segments: u16, meta: RxMeta) -> Self {
        Self { len, segments, meta }
    }
}

/// The receive side of a queue.
///
/// All methods are for task context. They return the frames that the last [`NetQueue::poll`] received: they do not wait, allocate
/// or take a lock, and they work even if the device is out of service.
pub trait NetRx {
    /// The oldest received frame, until [`pop`](Self::pop); `None` when there is none. [`NetQueue::poll`] receives new ones.
    fn front(&self) -> Option<RxFrame>;

    /// The bytes of segment `index` of the oldest frame; `None` when `index` is out of range. The host no longer writes to them.
    fn segment(&mut self, index: u16) -> Option<&mut [u8]>;

    /// Returns the memory of the oldest frame to the driver, which posts it again. The host may be notified at the next `poll`,
    /// `arm` or `kick`.
    fn pop(&mut self);

    /// The oldest frame in one piece: its only segment, or a copy of all segments in `scratch`; `None` when there is no frame or
    /// `scratch` is too short.
    fn contiguous<'a>(&'a mut self, scratch: &'a mut [u8]) -> Option<&'a mut [u8]> {
        let frame = self.front()?;
        if frame.segments == 1 {
            return self.segment(0);
        }
        let mut filled = 0usize;
        for index in 0..frame.segments {
            let segment = self.segment(index)?;
            let end = filled.checked_add(segment.len())?;
            scratch.get_mut(filled..end)?.copy_from_slice(segment);
            filled = end;
        }
        scratch.get_mut(..filled)
    }
}

/// A completed zero-copy send, which returns the buffer to the caller.
#[derive(Debug)]
#[non_exhaustive]
pub struct Sent<B> {
    /// The tag given to [`NetTx::send`].
    pub tag: u64,
    /// The buffer of the frame; `None` if it was leaked, as the host may still read it.
    pub buffer: Option<B>,
    /// Whether the host accepted the frame.
    pub result: Result<(), IoError>,
}

impl<B> Sent<B> {
    /// The completion of the send with this tag, for drivers.
    #[inline(always)]
    pub const fn new(tag: u64, buffer: Option<B>, result: Result<(), IoError>) -> Self {
        Self { tag, buffer, result }
    }
}

/// A frame that was not accepted, returned to the caller.
#[derive(Debug)]
#[non_exhaustive]
pub struct SendRefused<B> {
    /// Why it was refused.
    pub reason: Rejected,
    /// The buffer of the frame, which was not submitted.
    pub buffer: B,
}

impl<B> SendRefused<B> {
    /// Returns `buffer` to the caller, for drivers.
    #[inline]
    pub const fn new(reason: Rejected, buffer: B) -> Self {
        Self { reason, buffer }
    }
}

/// The transmit side of a queue.
///
/// All methods are for task context and neither wait for the host nor allocate. On virtio and VMware's card none takes a lock. On VMBus `reserve`,
/// `commit`, `send` and `kick` may take the spin lock of the queue's channel, which the control calls of [`NetDevice`] take for
/// each step on queue 0. The next [`NetQueue::poll`] returns a fault that `reserve` or `kick` detects.
pub trait NetTx {
    /// The type of the buffers that are sent without a copy.
    type Buffer: DmaBuffer;

    /// Whether [`reserve`](Self::reserve) would succeed for a frame of `len` bytes.
    fn is_ready(&self, len: usize) -> bool;

    /// Reserves a slot for a frame of up to `len` bytes until [`commit`](Self::commit); further calls keep the reservation.
    ///
    /// `false` when no slot is free now, or when `len` exceeds what the device accepts.
    #[must_use]
    fn reserve(&mut self, len: usize) -> bool;

    /// The bytes of the reserved slot, at least as many as were reserved; empty when none is reserved.
    fn slot(&mut self) -> &mut [u8];

    /// Sends the first `len` bytes of the reserved slot, from the Ethernet header on, without the frame check sequence.
    ///
    /// Ends the reservation. The host may not be notified before [`kick`](Self::kick).
    ///
    /// # Errors
    ///
    /// [`Rejected`] when no slot is reserved, the device does not support `len` or `meta`, or it is out of service; nothing is
    /// sent, and the slot is free again.
    fn commit(&mut self, len: usize, meta: TxMeta) -> Result<(), Rejected>;

    /// Sends a frame from the caller's buffer, without a copy. The buffer is in flight until [`sent`](Self::sent) returns it.
    ///
    /// # Errors
    ///
    /// [`SendRefused`], with the buffer: the reasons of [`commit`](Self::commit), [`Rejected::Full`] when no slot is free, and
    /// [`Rejected::Buffer`] when the buffer cannot be submitted.
    fn send(&mut self, tag: u64, frame: Self::Buffer, meta: TxMeta) -> Result<(), SendRefused<Self::Buffer>>;

    /// Returns one completed zero-copy send with its buffer; `None` when there is none. [`NetQueue::poll`] collects new
    /// completions.
    fn sent(&mut self) -> Option<Sent<Self::Buffer>>;

    /// Notifies the host of sent frames, unless the host has suppressed notifications.
    fn kick(&mut self);
}

/// A pair of a receive and a transmit queue.
///
/// All methods are for task context; interrupts only wake the registered waker.
pub trait NetQueue: Notify + Send {
    /// The receive side.
    type Rx: NetRx + ?Sized;
    /// The transmit side.
    type Tx: NetTx + ?Sized;

    /// Receives frames and collects completed sends, a bounded amount of work. Does not allocate; on VMBus takes the spin lock of
    /// the queue's channel, and on VMware's card that of the card after a reset.
    ///
    /// Does not wait for the host while the device is in service. A call that detects a fault takes the device out of service, and
    /// blocks until the device has stopped or the driver's timeout ends (see the [crate
    /// documentation](crate#contexts-waits-and-locks)).
    ///
    /// # Errors
    ///
    /// The [`Fault`] when the device is out of service. Frames received before can still be read, and [`NetTx::sent`] returns the
    /// buffers that were in flight; they are leaked when the device did not confirm that it quiesced ([`Fault::Timeout`]).
    fn poll(&mut self) -> Result<(), Fault>;

    /// Returns both sides, for use at the same time. Has no other effect.
    fn split(&mut self) -> (&mut Self::Rx, &mut Self::Tx);

    /// Returns the transmit side, for [`NetTx::is_ready`] where only a shared reference is at hand.
    fn tx(&self) -> &Self::Tx;

    /// Takes back what is in flight: [`NetTx::sent`] returns the buffers as aborted, and frames received before can still be read. Blocks
    /// until the device has stopped or the driver's timeout ends.
    ///
    /// A virtio pair is reset alone if the device supports that, otherwise with its device, and is in service again when the queues have
    /// been drained. VMware's card is reset as a whole, and is in service again when each of its pairs has been drained. On VMBus the card is closed and reports [`Fault::Timeout`]; it can be opened again. The drivers call this from
    /// [`Notify::expire`] if the host has completed no sent frame for 60 seconds while some are in flight.
    ///
    /// # Errors
    ///
    /// The [`Fault`] if the device is out of service then.
    fn reset(&mut self) -> Result<(), Fault>;
}

impl<Q: NetQueue + ?Sized> NetQueue for &mut Q {
    type Rx = Q::Rx;
    type Tx = Q::Tx;
    fn poll(&mut self) -> Result<(), Fault> {
        (**self).poll()
    }
    fn split(&mut self) -> (&mut Q::Rx, &mut Q::Tx) {
        (**self).split()
    }
    fn tx(&self) -> &Q::Tx {
        (**self).tx()
    }
    fn reset(&mut self) -> Result<(), Fault> {
        (**self).reset()
    }
}

/// Erases the types of the two sides of a queue, so that `dyn NetQueue<Rx = dyn NetRx, Tx = dyn NetTx<Buffer = B>>` can hold
/// any queue.
#[derive(Debug)]
pub struct Erased<Q>(pub Q);

impl<Q: Notify> Notify for Erased<Q> {
    fn arm(&mut self) -> Arm {
        self.0.arm()
    }
    fn disarm(&mut self) {
        self.0.disarm();
    }
    fn register(&mut self, waker: &Waker) {
        self.0.register(waker);
    }
    fn next_deadline(&self) -> Instant {
        self.0.next_deadline()
    }
    fn expire(&mut self, now: Instant) -> Result<(), Fault> {
        self.0.expire(now)
    }
}

impl<Q, R, T> NetQueue for Erased<Q>
where
    R: NetRx + 'static,
    T: NetTx + 'static,
    Q: NetQueue<Rx = R, Tx = T>,
{
    type Rx = dyn NetRx;
    type Tx = dyn NetTx<Buffer = T::Buffer>;
    fn poll(&mut self) -> Result<(), Fault> {
        self.0.poll()
    }
    fn split(&mut self) -> (&mut Self::Rx, &mut Self::Tx) {
        let (rx, tx) = self.0.split();
        (rx, tx)
    }
    fn tx(&self) -> &Self::Tx {
        self.0.tx()
    }
    fn reset(&mut self) -> Result<(), Fault> {
        self.0.reset()
    }
}

bitflags! {
    /// The work that a network device does for the guest.
    #[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
    pub struct Offloads: u32 {
        /// Fills in the TCP and UDP checksums of sent frames.
        const TX_CHECKSUM = 1 << 0;
        /// Segments sent TCP over IPv4.
        const TX_TCP4 = 1 << 1;
        /// Segments sent TCP over IPv6.
        const TX_TCP6 = 1 << 2;
        /// Segments sent UDP.
        const TX_UDP = 1 << 3;
        /// May deliver frames whose checksum was verified or never computed.
        const RX_CHECKSUM = 1 << 8;
        /// May coalesce received TCP segments over IPv4.
        const RX_TCP4 = 1 << 9;
        /// May coalesce received TCP segments over IPv6.
        const RX_TCP6 = 1 << 10;
        /// May coalesce received UDP datagrams.
        const RX_UDP = 1 << 11;
    }
}

/// Which frames the device delivers besides those to its own address and to broadcast.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum ReceiveMode {
    /// Those to the addresses given to [`NetDevice::set_multicast`].
    Filtered,
    /// Those to any multicast address.
    AllMulticast,
    /// All frames.
    Promiscuous,
}

/// The state of the link.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Link {
    /// There is a carrier.
    Up,
    /// There is no carrier.
    Down,
}

/// The address and limits of a network device.
///
/// ```
/// let info = paravirt_device::NetInfo::new(paravirt_device::MacAddr([2, 0, 0, 0, 0, 1]), 1500);
/// assert_eq!((info.queues, info.max_segmented), (1, 1514));
/// ```
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct NetInfo {
    /// The MAC address.
    pub mac: MacAddr,
    /// The maximum length in bytes of a packet without its Ethernet header.
    pub mtu: u16,
    /// The number of queue pairs that can be taken.
    pub queues: u16,
    /// The maximum number of frames in flight in one direction of a queue pair.
    pub depth: u16,
    /// The offloads that are enabled.
    pub offloads: Offloads,
    /// The maximum length in bytes of a frame that the device segments, with its Ethernet header; of any frame if it segments
    /// none.
    pub max_segmented: u32,
    /// The speed of the link in Mbit/s; `None` if the host does not report it.
    pub speed: Option<u32>,
    /// How the device signals completions, and on which rings it works.
    pub connection: Connection,
}

impl NetInfo {
    /// A device with one queue pair of one frame, without offloads. Drivers assign what the device reports.
    pub const fn new(mac: MacAddr, mtu: u16) -> Self {
        Self {
            mac,
            mtu,
            queues: 1,
            depth: 1,
            offloads: Offloads::empty(),
            // The Ethernet header is 14 bytes; 65,549 fits.
            max_segmented: (mtu as u32).saturating_add(14),
            speed: None,
            connection: Connection::new(Signalling::Polled, RingKind::Split),
        }
    }
}

/// A change of a network device.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum NetEvent {
    /// The link changed.
    Link(Link),
    /// The host changed the MAC address.
    Mac(MacAddr),
    /// The guest should announce itself on the network (gratuitous ARP), as it was moved; then call
    /// [`NetDevice::announced`].
    Announce,
    /// A virtual function (SR-IOV) on the same network was attached or detached.
    VirtualFunction {
        /// Its serial number on the virtual PCI bus; `None` when it was detached.
        serial: Option<u32>,
    },
    /// The device is out of service.
    Faulted(Fault),
}

/// A network device.
///
/// All methods are for task context and may take the locks of the device; none allocates, except [`take_queue`](Self::take_queue).
///
/// The control calls are those that return [`ControlError`]. They send commands to the host and block until it answers: at most 5
/// seconds for each command on virtio, the timeout of the bus for an answer on VMBus. A call sends up to three. The queues stay in service meanwhile; a command
/// that is not answered in time resets a virtio device, and takes a device on VMBus out of service. The errors:
///
/// * [`ControlError::Unsupported`]: the device does not offer the setting, which is unchanged.
/// * [`ControlError::Refused`]: the device rejected it. The setting is unchanged, but the first commands of a call that sends
///   several may have taken effect.
/// * [`ControlError::Faulted`]: the device is out of service or did not answer; the current setting is unknown.
pub trait NetDevice: Send {
    /// The type of its queues.
    type Queue: NetQueue;

    /// The address and limits, as of the last [`poll_event`](Self::poll_event) or control call. Takes no lock.
    fn info(&self) -> NetInfo;

    /// The state of the link, as of the last [`poll_event`](Self::poll_event). Takes no lock.
    fn link(&self) -> Link;

    /// Returns queue pair `index`, once; `None` when it has been taken, `index` is out of range ([`NetInfo::queues`]), or there is
    /// no memory for it. May allocate; does not wait for the host.
    ///
    /// A pair that was dropped cannot be taken again. Buffers in flight then are dropped once the device has stopped using them: a
    /// virtio pair is reset, alone or with its device, and the drop blocks for that (5 seconds at most for each queue and for the
    /// device); on VMBus they stay with the device until the host has completed them, on VMware's card until that is stopped, and the drop
    /// does not block.
    fn take_queue(&mut self, index: u16) -> Option<Self::Queue>;

    /// Returns the next change since the last call; call until `None`.
    ///
    /// Continues a recovery, and blocks for it. After a reset of a virtio device it sends the settings again, and blocks as the
    /// control calls do; otherwise it does not wait for the host. While queue 0 is not owned by a caller, its frames are dropped
    /// here; on VMware's card they stay in its ring.
    fn poll_event(&mut self) -> Option<NetEvent>;

    /// Registers the waker to wake when there may be an event, in place of the previous one. Does not wait for the host.
    fn register(&mut self, waker: &Waker);

    /// Makes the host distribute received frames over the first `queues` pairs. One pair is in use until this is called.
    ///
    /// # Errors
    ///
    /// [`ControlError`].
    fn set_active_queues(&mut self, queues: u16) -> Result<(), ControlError>;

    /// Sets which frames the device delivers.
    ///
    /// # Errors
    ///
    /// [`ControlError`].
    fn set_receive_mode(&mut self, mode: ReceiveMode) -> Result<(), ControlError>;

    /// Sets the multicast addresses whose frames are delivered under [`ReceiveMode::Filtered`].
    ///
    /// # Errors
    ///
    /// [`ControlError`]; [`ControlError::Refused`] also when the list is longer than the device supports.
    fn set_multicast(&mut self, addresses: &[MacAddr]) -> Result<(), ControlError>;

    /// Sets the MAC address.
    ///
    /// # Errors
    ///
    /// [`ControlError`].
    fn set_mac(&mut self, mac: MacAddr) -> Result<(), ControlError>;

    /// Sets the receive offloads: the `RX_` flags of `offloads`. The other flags are ignored.
    ///
    /// # Errors
    ///
    /// [`ControlError`].
    fn set_offloads(&mut self, offloads: Offloads) -> Result<(), ControlError>;

    /// Acknowledges [`NetEvent::Announce`] after the guest has announced itself. Hosts on VMBus expect no acknowledgement: nothing
    /// is sent.
    ///
    /// # Errors
    ///
    /// [`ControlError`].
    fn announced(&mut self) -> Result<(), ControlError>;
}
