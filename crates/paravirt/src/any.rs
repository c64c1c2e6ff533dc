//! The devices of all buses as enumerations that implement the traits of [`paravirt_device`], without allocation or `dyn`.

use crate::{Device, Found, Place};
use core::convert::Infallible;
use core::fmt;
use core::marker::PhantomData;
use core::task::Waker;
#[cfg(feature = "xen")]
use paravirt_blkfront::{BlkFront, BlkFrontQueue};
use paravirt_device::{
    Arm, Balloon, BalloonInfo, BalloonMemory, BlockDevice, BlockEvent, BlockInfo, BlockQueue, Clock,
    Completion, Console, ConsoleSize, ControlError, Entropy, Fault, Input, InputEvent, InputInfo, Leds, Link,
    MacAddr, NetDevice, NetEvent, NetInfo, NetQueue, NetRx, NetTx, Notify, Offloads, ReceiveMode, Refused,
    Request, SocketError, SocketId, SocketState, Sockets,
};
#[cfg(all(feature = "hyperv", feature = "balloon"))]
use paravirt_hv_balloon::HvBalloon;
#[cfg(all(feature = "hyperv", feature = "input"))]
use paravirt_hv_input::HvInput;
#[cfg(all(feature = "hyperv", feature = "sockets"))]
use paravirt_hv_socket::HvSockets;
#[cfg(feature = "hyperv")]
use paravirt_hyperv::ReferenceClock;
#[cfg(feature = "virtio")]
use paravirt_kvm::KvmClock;
#[cfg(all(feature = "xen", feature = "net"))]
use paravirt_netfront::{NetFront, NetFrontQueue};
#[cfg(all(feature = "hyperv", feature = "net"))]
use paravirt_netvsc::{NetVsc, NetVscQueue};
use paravirt_platform::{AllocError, DmaBuffer, Instant, PageBox, Platform};
#[cfg(feature = "vmware")]
use paravirt_pvscsi::{PvscsiDisk, PvscsiQueue};
#[cfg(all(feature = "virtio", feature = "scsi"))]
use paravirt_scsi::{Disk, DiskQueue};
#[cfg(feature = "hyperv")]
use paravirt_storvsc::{StorDisk, StorQueue};
#[cfg(all(feature = "virtio", feature = "balloon"))]
use paravirt_virtio::balloon::VirtioBalloon;
#[cfg(feature = "virtio")]
use paravirt_virtio::blk::{BlkQueue, VirtioBlk};
#[cfg(all(feature = "virtio", feature = "console"))]
use paravirt_virtio::console::VirtioConsole;
#[cfg(all(feature = "virtio", feature = "input"))]
use paravirt_virtio::input::VirtioInput;
#[cfg(all(feature = "virtio", feature = "net"))]
use paravirt_virtio::net::{VirtioNet, VirtioNetQueue};
#[cfg(all(feature = "virtio", feature = "entropy"))]
use paravirt_virtio::rng::VirtioRng;
#[cfg(all(feature = "virtio", feature = "scsi"))]
use paravirt_virtio::scsi::ScsiAdapter;
#[cfg(all(feature = "virtio", feature = "sockets"))]
use paravirt_virtio::socket::VirtioSockets;
#[cfg(feature = "vmware")]
use paravirt_vmware::TscClock;
#[cfg(all(feature = "vmware", feature = "net"))]
use paravirt_vmxnet3::{Vmxnet3, Vmxnet3Queue};
#[cfg(all(feature = "xen", feature = "balloon"))]
use paravirt_xen::XenBalloon;
#[cfg(feature = "xen")]
use paravirt_xen::XenClock;
#[cfg(all(feature = "xen", feature = "console"))]
use paravirt_xen::XenConsole;

/// Opens a device and puts it into pages of its own: it is passed on by value, on stacks that may be small. A frame of its own, so that
/// the caller's has no room for every kind of device.
#[inline(never)]
pub(crate) fn boxed<P: Platform, T, E: From<AllocError>>(
    platform: &P,
    open: impl FnOnce() -> Result<T, E>,
) -> Result<PageBox<P, T>, E> {
    Ok(PageBox::new(platform, open()?)?)
}

/// Calls `work` in a frame of its own, whose size the caller's does not include.
#[inline(never)]
pub(crate) fn separately<R>(work: impl FnOnce() -> R) -> R {
    work()
}

/// Passes a device to `found`, in a frame that the caller's does not include.
#[inline(never)]
pub(crate) fn pass<P: Platform, B: DmaBuffer>(
    place: Place,
    device: Device<P, B>,
    found: &mut dyn FnMut(Found<P, B>),
) {
    found(Found { address: place.into(), device });
}

/// The payload of a variant that cannot be constructed. It keeps the type parameters of a device enumeration in use when the
/// features of all its other variants are off.
pub type Never<T> = (Infallible, PhantomData<fn() -> T>);

/// Matches the variants of an enumeration of devices of the kind of feature `$kind`.
macro_rules! each {
    ($kind:tt: $self:expr, $d:ident => $call:expr) => {
        match $self {
            #[cfg(all(feature = "virtio", feature = $kind))]
            Self::Virtio($d) => $call,
            Self::Never((never, _)) => match *never {},
        }
    };
}

/// As `each`, for kinds that virtio and Hyper-V have.
macro_rules! both {
    ($kind:tt: $self:expr, $d:ident => $call:expr) => {
        match $self {
            #[cfg(all(feature = "virtio", feature = $kind))]
            Self::Virtio($d) => $call,
            #[cfg(all(feature = "hyperv", feature = $kind))]
            Self::HyperV($d) => $call,
            Self::Never((never, _)) => match *never {},
        }
    };
}

macro_rules! net {
    ($self:expr, $d:ident => $call:expr) => {
        match $self {
            #[cfg(all(feature = "virtio", feature = "net"))]
            Self::Virtio($d) => $call,
            #[cfg(all(feature = "hyperv", feature = "net"))]
            Self::HyperV($d) => $call,
            #[cfg(all(feature = "vmware", feature = "net"))]
            Self::VMware($d) => $call,
            #[cfg(all(feature = "xen", feature = "net"))]
            Self::Xen($d) => $call,
            Self::Never((never, _)) => match *never {},
        }
    };
}

macro_rules! console {
    ($self:expr, $d:ident => $call:expr) => {
        match $self {
            #[cfg(all(feature = "virtio", feature = "console"))]
            Self::Virtio($d) => $call,
            #[cfg(all(feature = "xen", feature = "console"))]
            Self::Xen($d) => $call,
            Self::Never((never, _)) => match *never {},
        }
    };
}

macro_rules! entropy {
    ($self:expr, $d:ident => $call:expr) => {
        each!("entropy": $self, $d => $call)
    };
}

macro_rules! input {
    ($self:expr, $d:ident => $call:expr) => {
        both!("input": $self, $d => $call)
    };
}

macro_rules! sockets {
    ($self:expr, $d:ident => $call:expr) => {
        both!("sockets": $self, $d => $call)
    };
}

macro_rules! balloon {
    ($self:expr, $d:ident => $call:expr) => {
        match $self {
            #[cfg(all(feature = "virtio", feature = "balloon"))]
            Self::Virtio($d) => $call,
            #[cfg(all(feature = "hyperv", feature = "balloon"))]
            Self::HyperV($d) => $call,
            #[cfg(all(feature = "xen", feature = "balloon"))]
            Self::Xen($d) => $call,
            Self::Never((never, _)) => match *never {},
        }
    };
}

macro_rules! block {
    ($self:expr, $d:ident => $call:expr) => {
        match $self {
            #[cfg(feature = "virtio")]
            Self::Virtio($d) => $call,
            #[cfg(all(feature = "virtio", feature = "scsi"))]
            Self::VirtioScsi($d) => $call,
            #[cfg(feature = "hyperv")]
            Self::HyperV($d) => $call,
            #[cfg(feature = "vmware")]
            Self::VMware($d) => $call,
            #[cfg(feature = "xen")]
            Self::Xen($d) => $call,
            Self::Never((never, _)) => match *never {},
        }
    };
}

macro_rules! notify {
    ($each:ident) => {
        fn arm(&mut self) -> Arm {
            $each!(self, d => d.arm())
        }
        fn disarm(&mut self) {
            $each!(self, d => d.disarm());
        }
        fn register(&mut self, waker: &Waker) {
            $each!(self, d => d.register(waker));
        }
        fn next_deadline(&self) -> Instant {
            $each!(self, d => d.next_deadline())
        }
        fn expire(&mut self, now: Instant) -> Result<(), Fault> {
            $each!(self, d => d.expire(now))
        }
    };
}

/// Implements `Debug` as the name of the type and of the bus. The drivers hold buffers and registers, which are not printed.
macro_rules! debug {
    ($name:ident<$($parameter:ident: $bound:ident),+>; $($(#[$attribute:meta])* $variant:ident),+) => {
        impl<$($parameter: $bound),+> fmt::Debug for $name<$($parameter),+> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $($(#[$attribute])* Self::$variant(_) => {
                        f.write_str(concat!(stringify!($name), "(", stringify!($variant), ")"))
                    })+
                    Self::Never((never, _)) => match *never {},
                }
            }
        }
    };
}

debug!(Block<P: Platform, B: DmaBuffer>;
    #[cfg(feature = "virtio")] Virtio, #[cfg(all(feature = "virtio", feature = "scsi"))] VirtioScsi, #[cfg(feature = "hyperv")] HyperV, #[cfg(feature = "vmware")] VMware,
    #[cfg(feature = "xen")] Xen);
debug!(BlockQ<P: Platform, B: DmaBuffer>;
    #[cfg(feature = "virtio")] Virtio, #[cfg(all(feature = "virtio", feature = "scsi"))] VirtioScsi, #[cfg(feature = "hyperv")] HyperV, #[cfg(feature = "vmware")] VMware,
    #[cfg(feature = "xen")] Xen);
debug!(Net<P: Platform, B: DmaBuffer>;
    #[cfg(all(feature = "virtio", feature = "net"))] Virtio, #[cfg(all(feature = "hyperv", feature = "net"))] HyperV,
    #[cfg(all(feature = "vmware", feature = "net"))] VMware, #[cfg(all(feature = "xen", feature = "net"))] Xen);
debug!(NetQ<P: Platform, B: DmaBuffer>;
    #[cfg(all(feature = "virtio", feature = "net"))] Virtio, #[cfg(all(feature = "hyperv", feature = "net"))] HyperV,
    #[cfg(all(feature = "vmware", feature = "net"))] VMware, #[cfg(all(feature = "xen", feature = "net"))] Xen);
debug!(AnyConsole<P: Platform>; #[cfg(all(feature = "virtio", feature = "console"))] Virtio, #[cfg(all(feature = "xen", feature = "console"))] Xen);
debug!(AnyEntropy<P: Platform>; #[cfg(all(feature = "virtio", feature = "entropy"))] Virtio);
debug!(AnyInput<P: Platform>; #[cfg(all(feature = "virtio", feature = "input"))] Virtio, #[cfg(all(feature = "hyperv", feature = "input"))] HyperV);
debug!(AnySockets<P: Platform>; #[cfg(all(feature = "virtio", feature = "sockets"))] Virtio, #[cfg(all(feature = "hyperv", feature = "sockets"))] HyperV);
debug!(AnyBalloon<P: Platform>; #[cfg(all(feature = "virtio", feature = "balloon"))] Virtio, #[cfg(all(feature = "hyperv", feature = "balloon"))] HyperV, #[cfg(all(feature = "xen", feature = "balloon"))] Xen);
debug!(AnyClock<P: Platform>; #[cfg(feature = "hyperv")] HyperV, #[cfg(feature = "virtio")] Kvm, #[cfg(feature = "vmware")] VMware, #[cfg(feature = "xen")] Xen);

/// A block device of any bus: see [`BlockDevice`] for its methods, units and contexts.
#[non_exhaustive]
#[allow(clippy::large_enum_variant, reason = "one device is one value; nothing is moved on the data path")]
pub enum Block<P: Platform, B: DmaBuffer> {
    /// A virtio block device.
    #[cfg(feature = "virtio")]
    Virtio(VirtioBlk<P, B>),
    /// A disk of a virtio SCSI host.
    #[cfg(all(feature = "virtio", feature = "scsi"))]
    VirtioScsi(Disk<P, ScsiAdapter<P>, B>),
    /// A disk of a StorVSC controller.
    #[cfg(feature = "hyperv")]
    HyperV(StorDisk<P, B>),
    /// A disk of VMware's SCSI adapter.
    #[cfg(feature = "vmware")]
    VMware(PvscsiDisk<P, B>),
    /// A disk of Xen.
    #[cfg(feature = "xen")]
    Xen(PageBox<P, BlkFront<P, B>>),
    #[doc(hidden)]
    Never(Never<(P, B)>),
}

/// A queue of a [`Block`] device: see [`BlockQueue`] for its methods, errors and contexts.
#[non_exhaustive]
#[allow(clippy::large_enum_variant, reason = "one device is one value; nothing is moved on the data path")]
pub enum BlockQ<P: Platform, B: DmaBuffer> {
    /// A request queue of a virtio block device.
    #[cfg(feature = "virtio")]
    Virtio(BlkQueue<P, B>),
    /// A queue of a disk of a virtio SCSI host.
    #[cfg(all(feature = "virtio", feature = "scsi"))]
    VirtioScsi(DiskQueue<P, ScsiAdapter<P>, B>),
    /// A queue of a disk of a StorVSC controller.
    #[cfg(feature = "hyperv")]
    HyperV(StorQueue<P, B>),
    /// The queue of a disk of VMware's SCSI adapter.
    #[cfg(feature = "vmware")]
    VMware(PvscsiQueue<P, B>),
    /// A queue of a disk of Xen.
    #[cfg(feature = "xen")]
    Xen(BlkFrontQueue<P, B>),
    #[doc(hidden)]
    Never(Never<(P, B)>),
}

impl<P: Platform, B: DmaBuffer> Notify for BlockQ<P, B> {
    notify!(block);
}

impl<P: Platform, B: DmaBuffer> BlockQueue for BlockQ<P, B> {
    type Buffer = B;
    #[inline]
    fn submit(&mut self, request: Request<B>) -> Result<(), Refused<B>> {
        block!(self, q => q.submit(request))
    }
    #[inline]
    fn kick(&mut self) {
        block!(self, q => q.kick());
    }
    #[inline]
    fn complete(&mut self) -> Result<Option<Completion<B>>, Fault> {
        block!(self, q => q.complete())
    }
    fn reset(&mut self) -> Result<(), Fault> {
        block!(self, q => q.reset())
    }
}

impl<P: Platform, B: DmaBuffer> BlockDevice for Block<P, B> {
    type Queue = BlockQ<P, B>;
    fn info(&self) -> BlockInfo {
        block!(self, d => d.info())
    }
    fn take_queue(&mut self, index: u16) -> Option<BlockQ<P, B>> {
        match self {
            #[cfg(feature = "virtio")]
            Self::Virtio(d) => d.take_queue(index).map(BlockQ::Virtio),
            #[cfg(all(feature = "virtio", feature = "scsi"))]
            Self::VirtioScsi(d) => d.take_queue(index).map(BlockQ::VirtioScsi),
            #[cfg(feature = "hyperv")]
            Self::HyperV(d) => d.take_queue(index).map(BlockQ::HyperV),
            #[cfg(feature = "vmware")]
            Self::VMware(d) => d.take_queue(index).map(BlockQ::VMware),
            #[cfg(feature = "xen")]
            Self::Xen(d) => d.take_queue(index).map(BlockQ::Xen),
            Self::Never((never, _)) => match *never {},
        }
    }
    fn poll_event(&mut self) -> Option<BlockEvent> {
        block!(self, d => d.poll_event())
    }
    fn register(&mut self, waker: &Waker) {
        block!(self, d => d.register(waker));
    }
}

/// A network device of any bus: see [`NetDevice`] for its methods, errors and contexts.
#[non_exhaustive]
#[allow(clippy::large_enum_variant, reason = "one device is one value; nothing is moved on the data path")]
pub enum Net<P: Platform, B: DmaBuffer> {
    /// A virtio network device.
    #[cfg(all(feature = "virtio", feature = "net"))]
    Virtio(PageBox<P, VirtioNet<P, B>>),
    /// A NetVSC network device.
    #[cfg(all(feature = "hyperv", feature = "net"))]
    HyperV(NetVsc<P, B>),
    /// VMware's network card.
    #[cfg(all(feature = "vmware", feature = "net"))]
    VMware(PageBox<P, Vmxnet3<P, B>>),
    /// A network card of Xen.
    #[cfg(all(feature = "xen", feature = "net"))]
    Xen(PageBox<P, NetFront<P, B>>),
    #[doc(hidden)]
    Never(Never<(P, B)>),
}

/// A pair of receive and transmit queues of a [`Net`] device: see [`NetQueue`].
#[non_exhaustive]
#[allow(clippy::large_enum_variant, reason = "one queue is one value; nothing is moved on the data path")]
pub enum NetQ<P: Platform, B: DmaBuffer> {
    /// A queue pair of a virtio network device.
    #[cfg(all(feature = "virtio", feature = "net"))]
    Virtio(VirtioNetQueue<P, B>),
    /// A queue pair (one VMBus channel) of a NetVSC network device.
    #[cfg(all(feature = "hyperv", feature = "net"))]
    HyperV(NetVscQueue<P, B>),
    /// A queue pair of VMware's network card.
    #[cfg(all(feature = "vmware", feature = "net"))]
    VMware(Vmxnet3Queue<P, B>),
    /// A queue pair of a network card of Xen.
    #[cfg(all(feature = "xen", feature = "net"))]
    Xen(NetFrontQueue<P, B>),
    #[doc(hidden)]
    Never(Never<(P, B)>),
}

impl<P: Platform, B: DmaBuffer> Notify for NetQ<P, B> {
    notify!(net);
}

impl<P: Platform, B: DmaBuffer> NetQueue for NetQ<P, B> {
    type Rx = dyn NetRx;
    type Tx = dyn NetTx<Buffer = B>;
    #[inline]
    fn poll(&mut self) -> Result<(), Fault> {
        net!(self, q => q.poll())
    }
    fn split(&mut self) -> (&mut Self::Rx, &mut Self::Tx) {
        match self {
            #[cfg(all(feature = "virtio", feature = "net"))]
            Self::Virtio(q) => {
                let (rx, tx) = q.split();
                (rx, tx)
            }
            #[cfg(all(feature = "hyperv", feature = "net"))]
            Self::HyperV(q) => {
                let (rx, tx) = q.split();
                (rx, tx)
            }
            #[cfg(all(feature = "vmware", feature = "net"))]
            Self::VMware(q) => {
                let (rx, tx) = q.split();
                (rx, tx)
            }
            #[cfg(all(feature = "xen", feature = "net"))]
            Self::Xen(q) => {
                let (rx, tx) = q.split();
                (rx, tx)
            }
            Self::Never((never, _)) => match *never {},
        }
    }
    fn tx(&self) -> &Self::Tx {
        match self {
            #[cfg(all(feature = "virtio", feature = "net"))]
            Self::Virtio(q) => q.tx(),
            #[cfg(all(feature = "hyperv", feature = "net"))]
            Self::HyperV(q) => q.tx(),
            #[cfg(all(feature = "vmware", feature = "net"))]
            Self::VMware(q) => q.tx(),
            #[cfg(all(feature = "xen", feature = "net"))]
            Self::Xen(q) => q.tx(),
            Self::Never((never, _)) => match *never {},
        }
    }
    fn reset(&mut self) -> Result<(), Fault> {
        net!(self, q => q.reset())
    }
}

impl<P: Platform, B: DmaBuffer> NetDevice for Net<P, B> {
    type Queue = NetQ<P, B>;
    fn info(&self) -> NetInfo {
        net!(self, d => d.info())
    }
    fn link(&self) -> Link {
        net!(self, d => d.link())
    }
    fn take_queue(&mut self, index: u16) -> Option<NetQ<P, B>> {
        match self {
            #[cfg(all(feature = "virtio", feature = "net"))]
            Self::Virtio(d) => d.take_queue(index).map(NetQ::Virtio),
            #[cfg(all(feature = "hyperv", feature = "net"))]
            Self::HyperV(d) => d.take_queue(index).map(NetQ::HyperV),
            #[cfg(all(feature = "vmware", feature = "net"))]
            Self::VMware(d) => d.take_queue(index).map(NetQ::VMware),
            #[cfg(all(feature = "xen", feature = "net"))]
            Self::Xen(d) => d.take_queue(index).map(NetQ::Xen),
            Self::Never((never, _)) => match *never {},
        }
    }
    fn poll_event(&mut self) -> Option<NetEvent> {
        net!(self, d => d.poll_event())
    }
    fn register(&mut self, waker: &Waker) {
        net!(self, d => d.register(waker));
    }
    fn set_active_queues(&mut self, queues: u16) -> Result<(), ControlError> {
        net!(self, d => d.set_active_queues(queues))
    }
    fn set_receive_mode(&mut self, mode: ReceiveMode) -> Result<(), ControlError> {
        net!(self, d => d.set_receive_mode(mode))
    }
    fn set_multicast(&mut self, addresses: &[MacAddr]) -> Result<(), ControlError> {
        net!(self, d => d.set_multicast(addresses))
    }
    fn set_mac(&mut self, mac: MacAddr) -> Result<(), ControlError> {
        net!(self, d => d.set_mac(mac))
    }
    fn set_offloads(&mut self, offloads: Offloads) -> Result<(), ControlError> {
        net!(self, d => d.set_offloads(offloads))
    }
    fn announced(&mut self) -> Result<(), ControlError> {
        net!(self, d => d.announced())
    }
}

/// A console device of any bus: see [`Console`] for its methods, errors and contexts.
#[non_exhaustive]
#[allow(clippy::large_enum_variant, reason = "one device is one value; nothing is moved on the data path")]
pub enum AnyConsole<P: Platform> {
    /// A virtio console.
    #[cfg(all(feature = "virtio", feature = "console"))]
    Virtio(PageBox<P, VirtioConsole<P>>),
    /// The console of a domain of Xen.
    #[cfg(all(feature = "xen", feature = "console"))]
    Xen(XenConsole<P>),
    #[doc(hidden)]
    Never(Never<P>),
}

impl<P: Platform> Notify for AnyConsole<P> {
    notify!(console);
}

impl<P: Platform> Console for AnyConsole<P> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        console!(self, d => d.write(bytes))
    }
    fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Fault> {
        console!(self, d => d.read(bytes))
    }
    fn is_flushed(&mut self) -> Result<bool, Fault> {
        console!(self, d => d.is_flushed())
    }
    fn size(&self) -> Option<ConsoleSize> {
        console!(self, d => d.size())
    }
}

/// A source of random bytes of any bus: see [`Entropy`].
#[non_exhaustive]
#[allow(clippy::large_enum_variant, reason = "one device is one value; nothing is moved on the data path")]
pub enum AnyEntropy<P: Platform> {
    /// A virtio entropy device.
    #[cfg(all(feature = "virtio", feature = "entropy"))]
    Virtio(PageBox<P, VirtioRng<P>>),
    #[doc(hidden)]
    Never(Never<P>),
}

impl<P: Platform> Notify for AnyEntropy<P> {
    notify!(entropy);
}

impl<P: Platform> Entropy for AnyEntropy<P> {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<usize, Fault> {
        entropy!(self, d => d.fill(bytes))
    }
}

/// A keyboard, mouse or tablet of any bus: see [`Input`].
#[non_exhaustive]
#[allow(clippy::large_enum_variant, reason = "one device is one value; nothing is moved on the data path")]
pub enum AnyInput<P: Platform> {
    /// A virtio input device.
    #[cfg(all(feature = "virtio", feature = "input"))]
    Virtio(PageBox<P, VirtioInput<P>>),
    /// A synthetic keyboard or mouse on VMBus.
    #[cfg(all(feature = "hyperv", feature = "input"))]
    HyperV(PageBox<P, HvInput<P>>),
    #[doc(hidden)]
    Never(Never<P>),
}

impl<P: Platform> Notify for AnyInput<P> {
    notify!(input);
}

impl<P: Platform> Input for AnyInput<P> {
    fn info(&self) -> InputInfo {
        input!(self, d => d.info())
    }
    fn poll(&mut self) -> Result<Option<InputEvent>, Fault> {
        input!(self, d => d.poll())
    }
    fn set_leds(&mut self, leds: Leds) -> Result<bool, Fault> {
        input!(self, d => d.set_leds(leds))
    }
}

/// Stream sockets to the host over any bus: see [`Sockets`].
#[non_exhaustive]
#[allow(clippy::large_enum_variant, reason = "one device is one value; nothing is moved on the data path")]
pub enum AnySockets<P: Platform> {
    /// A virtio socket device (vsock).
    #[cfg(all(feature = "virtio", feature = "sockets"))]
    Virtio(PageBox<P, VirtioSockets<P>>),
    /// Hyper-V sockets on VMBus.
    #[cfg(all(feature = "hyperv", feature = "sockets"))]
    HyperV(HvSockets<P>),
    #[doc(hidden)]
    Never(Never<P>),
}

impl<P: Platform> Notify for AnySockets<P> {
    notify!(sockets);
}

impl<P: Platform> Sockets for AnySockets<P> {
    fn capacity(&self) -> u16 {
        sockets!(self, d => d.capacity())
    }
    fn poll(&mut self) -> Result<(), Fault> {
        sockets!(self, d => d.poll())
    }
    fn connect(&mut self, port: u32) -> Result<SocketId, SocketError> {
        sockets!(self, d => d.connect(port))
    }
    fn listen(&mut self, port: u32) -> Result<(), SocketError> {
        sockets!(self, d => d.listen(port))
    }
    fn accept(&mut self, port: u32) -> Option<SocketId> {
        sockets!(self, d => d.accept(port))
    }
    fn state(&self, socket: SocketId) -> Option<SocketState> {
        sockets!(self, d => d.state(socket))
    }
    fn send(&mut self, socket: SocketId, bytes: &[u8]) -> Result<usize, SocketError> {
        sockets!(self, d => d.send(socket, bytes))
    }
    fn receive(&mut self, socket: SocketId, bytes: &mut [u8]) -> Result<usize, SocketError> {
        sockets!(self, d => d.receive(socket, bytes))
    }
    fn finish(&mut self, socket: SocketId) -> Result<(), SocketError> {
        sockets!(self, d => d.finish(socket))
    }
    fn close(&mut self, socket: SocketId) {
        sockets!(self, d => d.close(socket));
    }
    fn is_flushed(&mut self) -> Result<bool, Fault> {
        sockets!(self, d => d.is_flushed())
    }
}

/// A memory balloon of any bus: see [`Balloon`].
#[non_exhaustive]
#[allow(clippy::large_enum_variant, reason = "one device is one value; nothing is moved on the data path")]
pub enum AnyBalloon<P: Platform> {
    /// A virtio memory balloon.
    #[cfg(all(feature = "virtio", feature = "balloon"))]
    Virtio(PageBox<P, VirtioBalloon<P>>),
    /// The Dynamic Memory device on VMBus.
    #[cfg(all(feature = "hyperv", feature = "balloon"))]
    HyperV(PageBox<P, HvBalloon<P>>),
    /// The balloon of a domain of Xen.
    #[cfg(all(feature = "xen", feature = "balloon"))]
    Xen(XenBalloon<P>),
    #[doc(hidden)]
    Never(Never<P>),
}

impl<P: Platform> Notify for AnyBalloon<P> {
    notify!(balloon);
}

impl<P: Platform> Balloon for AnyBalloon<P> {
    fn poll(&mut self, memory: &mut dyn BalloonMemory) -> Result<(), Fault> {
        balloon!(self, d => d.poll(memory))
    }
    fn info(&self) -> BalloonInfo {
        balloon!(self, d => d.info())
    }
    fn report_free(&mut self, memory: &mut dyn BalloonMemory, most: u64) -> Result<u64, ControlError> {
        balloon!(self, d => d.report_free(memory, most))
    }
}

/// A clock of the hypervisor: see [`Clock`].
#[non_exhaustive]
pub enum AnyClock<P: Platform> {
    /// Hyper-V's partition reference time (TLFS §12).
    #[cfg(feature = "hyperv")]
    HyperV(ReferenceClock<P>),
    /// KVM's paravirtual clock (kvmclock).
    #[cfg(feature = "virtio")]
    Kvm(KvmClock<P>),
    /// The cycle counter, whose frequency VMware's hypervisor tells.
    #[cfg(feature = "vmware")]
    VMware(TscClock<P>),
    /// Xen's system time.
    #[cfg(feature = "xen")]
    Xen(XenClock<P>),
    #[doc(hidden)]
    Never(Never<P>),
}

impl<P: Platform> Clock for AnyClock<P> {
    fn now(&self) -> Instant {
        match self {
            #[cfg(feature = "hyperv")]
            Self::HyperV(clock) => clock.now(),
            #[cfg(feature = "virtio")]
            Self::Kvm(clock) => clock.now(),
            #[cfg(feature = "vmware")]
            Self::VMware(clock) => clock.now(),
            #[cfg(feature = "xen")]
            Self::Xen(clock) => clock.now(),
            Self::Never((never, _)) => match *never {},
        }
    }
}
