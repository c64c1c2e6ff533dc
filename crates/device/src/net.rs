use crate::{Arm, ControlError, Fault, IoError, Notify, Rejected};
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

/// An IEEE 802.1Q tag that travels beside the frame, not in it.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct VlanTag(pub u16);

/// Where a checksum goes: summed from byte `start` of the frame to its end, stored at byte `start + offset`, where
/// the sum of the pseudo-header already is.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct ChecksumRange {
    /// Where the sum begins.
    pub start: u16,
    /// Where it goes, from `start`.
    pub offset: u16,
}

/// What a large frame is cut into.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum SegmentKind {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP, over either.
    Udp,
}

/// Segmentation: a frame larger than the MTU that is, or was, several on the wire.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Segmentation {
    /// Of what.
    pub kind: SegmentKind,
    /// Payload bytes of each segment on the wire, at least 1.
    pub size: u16,
    /// Bytes of the headers that are repeated: Ethernet, IP and TCP or UDP.
    pub headers: u16,
}

/// What is to be done to a frame on its way out.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct TxMeta {
    /// The checksum that the host fills in. Needs [`Offloads::TX_CHECKSUM`].
    pub checksum: Option<ChecksumRange>,
    /// How the host cuts it up; needs `checksum`, and the offload of its kind.
    pub segmentation: Option<Segmentation>,
    /// The tag with which it leaves.
    pub vlan: Option<VlanTag>,
}

/// What is known of the checksum of a frame that came in.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub enum RxChecksum {
    /// Nothing: verify it.
    #[default]
    Unknown,
    /// It was verified.
    Valid,
    /// It was never computed, since the frame did not leave the host: the data are sound, the field holds the sum of
    /// the pseudo-header only.
    Partial(ChecksumRange),
}

/// What is known of a frame that came in.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct RxMeta {
    /// Its checksum.
    pub checksum: RxChecksum,
    /// Where it was several segments on the wire.
    pub segmentation: Option<Segmentation>,
    /// The tag with which it came, where the host took it out of the frame.
    pub vlan: Option<VlanTag>,
}

/// A frame that came in; its bytes are in [`NetRx::segment`].
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct RxFrame {
    /// Its length in bytes, from the Ethernet header on, without FCS.
    pub len: usize,
    /// In how many segments it lies, at least 1.
    pub segments: u16,
    /// What is known of it.
    pub meta: RxMeta,
}

/// The receiving side of a queue.
pub trait NetRx {
    /// The oldest frame that came in, until it is popped. [`NetQueue::poll`] looks for new ones.
    fn front(&self) -> Option<RxFrame>;

    /// The bytes of segment `index` of that frame: plain memory, the guest's own.
    fn segment(&mut self, index: u16) -> Option<&mut [u8]>;

    /// Gives the frame's memory back to the driver. The host may be told at the next `poll`, `arm` or `kick`.
    fn pop(&mut self);

    /// The whole frame in one piece: its only segment, or a copy of all of them in `scratch`; `None` where there is
    /// no frame or `scratch` is too short.
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

/// A frame that was sent from the caller's own memory, and that memory.
#[derive(Debug)]
pub struct Sent<B> {
    /// That of the frame.
    pub tag: u64,
    /// Its memory.
    pub buffer: B,
    /// Whether the host took it.
    pub result: Result<(), IoError>,
}

/// A frame that was not accepted, handed back.
#[derive(Debug)]
pub struct SendRefused<B> {
    /// Why.
    pub reason: Rejected,
    /// The frame's memory, not lent.
    pub buffer: B,
}

/// The sending side of a queue.
pub trait NetTx {
    /// What frames are sent from without a copy.
    type Buffer: DmaBuffer;

    /// Whether [`reserve`](Self::reserve) would find room for a frame of `len` bytes.
    fn is_ready(&self, len: usize) -> bool;

    /// Reserves a slot for a frame of up to `len` bytes; it stays reserved, over further calls, until
    /// [`commit`](Self::commit). `false` where there is no room now or ever.
    #[must_use]
    fn reserve(&mut self, len: usize) -> bool;

    /// The bytes of the reserved slot, as many as were asked for or more; empty where none is reserved.
    fn slot(&mut self) -> &mut [u8];

    /// Sends the first `len` bytes of the reserved slot, from the Ethernet header on, without FCS, and takes the
    /// reservation back. The host may not be told before [`kick`](Self::kick).
    ///
    /// # Errors
    ///
    /// [`Rejected`] where none is reserved, `len` or `meta` are not what the device takes, or it is out of service;
    /// nothing is sent, and the slot is free again.
    fn commit(&mut self, len: usize, meta: TxMeta) -> Result<(), Rejected>;

    /// Sends a frame from the caller's memory, without a copy. The memory comes back from [`sent`](Self::sent).
    ///
    /// # Errors
    ///
    /// [`SendRefused`], with the memory.
    fn send(&mut self, tag: u64, frame: Self::Buffer, meta: TxMeta) -> Result<(), SendRefused<Self::Buffer>>;

    /// Takes back the memory of one frame that was sent, after [`NetQueue::poll`].
    fn sent(&mut self) -> Option<Sent<Self::Buffer>>;

    /// Tells the host of what was sent, if it has to be told.
    fn kick(&mut self);
}

/// A pair of a receiving and a sending queue.
pub trait NetQueue: Notify + Send {
    /// The receiving side.
    type Rx: NetRx + ?Sized;
    /// The sending side.
    type Tx: NetTx + ?Sized;

    /// Looks for what came in and what went out.
    ///
    /// # Errors
    ///
    /// The [`Fault`] where the device is out of service. Frames that came in before can still be read, and memory of
    /// the caller's that was lent has come back.
    fn poll(&mut self) -> Result<(), Fault>;

    /// Both sides, to use at once.
    fn split(&mut self) -> (&mut Self::Rx, &mut Self::Tx);
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
}

/// A net queue with the types of its sides erased, so that
/// `dyn NetQueue<Rx = dyn NetRx, Tx = dyn NetTx<Buffer = B>>` can hold any.
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
}

bitflags! {
    /// What a network device does for the guest.
    #[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
    pub struct Offloads: u32 {
        /// Fills in checksums of TCP and UDP on the way out.
        const TX_CHECKSUM = 1 << 0;
        /// Cuts up TCP over IPv4 on the way out.
        const TX_TCP4 = 1 << 1;
        /// Cuts up TCP over IPv6 on the way out.
        const TX_TCP6 = 1 << 2;
        /// Cuts up UDP on the way out.
        const TX_UDP = 1 << 3;
        /// May hand in frames whose checksum was verified or never computed.
        const RX_CHECKSUM = 1 << 8;
        /// May hand in several TCP segments over IPv4 as one frame.
        const RX_TCP4 = 1 << 9;
        /// May hand in several TCP segments over IPv6 as one frame.
        const RX_TCP6 = 1 << 10;
        /// May hand in several UDP segments as one frame.
        const RX_UDP = 1 << 11;
    }
}

/// Which frames come in besides those to the device's own address and to all.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum ReceiveMode {
    /// Those to the addresses given to [`NetDevice::set_multicast`].
    Filtered,
    /// Those to any multicast address.
    AllMulticast,
    /// All.
    Promiscuous,
}

/// Whether there is a carrier.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Link {
    /// There is.
    Up,
    /// There is none.
    Down,
}

/// What a network device is.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct NetInfo {
    /// Its address.
    pub mac: MacAddr,
    /// Bytes of the largest packet behind the Ethernet header.
    pub mtu: u16,
    /// How many pairs of queues can be taken.
    pub queues: u16,
    /// Frames in one direction of a queue, at most.
    pub depth: u16,
    /// What it does for the guest, as it is set.
    pub offloads: Offloads,
    /// Bytes of the largest frame that it cuts up; the MTU and its header where it cuts none.
    pub max_segmented: u32,
    /// Mbit/s, where the host says it.
    pub speed: Option<u32>,
}

/// What happened to a network device.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum NetEvent {
    /// The carrier came or went.
    Link(Link),
    /// The host gave it another address.
    Mac(MacAddr),
    /// The guest should announce itself on the network (gratuitous ARP), as it was moved; then call
    /// [`NetDevice::announced`].
    Announce,
    /// A virtual function stands beside it that reaches the same network, or does no more.
    VirtualFunction {
        /// Its serial number on the bus of virtual PCI devices; `None` where there is none any more.
        serial: Option<u32>,
    },
    /// It is out of service.
    Faulted(Fault),
}

/// A network device.
pub trait NetDevice: Send {
    /// What its queues are.
    type Queue: NetQueue;

    /// What it is, as of the last [`poll_event`](Self::poll_event).
    fn info(&self) -> NetInfo;

    /// Whether there is a carrier, as of the last [`poll_event`](Self::poll_event).
    fn link(&self) -> Link;

    /// Hands out queue pair `index`, once; `None` where it is taken or not below [`NetInfo::queues`].
    ///
    /// A pair that is dropped is reset; it cannot be taken again.
    fn take_queue(&mut self, index: u16) -> Option<Self::Queue>;

    /// What happened since the last call; call until `None`.
    fn poll_event(&mut self) -> Option<NetEvent>;

    /// Registers the task to wake when there may be an event.
    fn register(&mut self, waker: &Waker);

    /// Lets the host spread incoming frames over the first `queues` pairs. One pair is in use until this is called.
    ///
    /// # Errors
    ///
    /// [`ControlError`].
    fn set_active_queues(&mut self, queues: u16) -> Result<(), ControlError>;

    /// Says which frames come in.
    ///
    /// # Errors
    ///
    /// [`ControlError`].
    fn set_receive_mode(&mut self, mode: ReceiveMode) -> Result<(), ControlError>;

    /// Gives the list of multicast addresses whose frames come in under [`ReceiveMode::Filtered`].
    ///
    /// # Errors
    ///
    /// [`ControlError`]; [`ControlError::Refused`] also where the list is longer than the device takes.
    fn set_multicast(&mut self, addresses: &[MacAddr]) -> Result<(), ControlError>;

    /// Sets the device's address.
    ///
    /// # Errors
    ///
    /// [`ControlError`].
    fn set_mac(&mut self, mac: MacAddr) -> Result<(), ControlError>;

    /// Switches what comes in: the `RX_` flags of `offloads`; the others are taken as they are.
    ///
    /// # Errors
    ///
    /// [`ControlError`].
    fn set_offloads(&mut self, offloads: Offloads) -> Result<(), ControlError>;

    /// Says that the guest has announced itself after [`NetEvent::Announce`].
    ///
    /// # Errors
    ///
    /// [`ControlError`].
    fn announced(&mut self) -> Result<(), ControlError>;
}
