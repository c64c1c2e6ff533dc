//! The transport of a controller: negotiation of version and properties, and its channels.
//!
//! Source: `storvsp_protocol` of OpenVMM (MIT) and `hv_vstorage.h` of FreeBSD (BSD).

use crate::message::{HostPacket, properties};
use crate::port::{PACKET, StorPort, header};
use core::cell::Cell;
use core::fmt;
use core::num::NonZeroU32;
use hyperv_bindings::storvsp::{
    StorvspChannelFlags, StorvspCreateSubChannels, StorvspNtStatus, StorvspOperation, StorvspPlain,
    StorvspProperties, StorvspQueryVersion, StorvspVersion,
};
use hyperv_bindings::vmbus::{FIBRE_CHANNEL, IDE};
use paravirt_device::Fault;
use paravirt_platform::{Instant, PAGE_SIZE, Platform, ProcessorId};
use paravirt_scsi::{Address, Limits, Scan, ScsiTransport};
use paravirt_vmbus::{Channel, ChannelError, ChannelOptions, Offer, Version, Vmbus};
use zerocopy::{Immutable, IntoBytes};

/// The maximum transfer in bytes if the host reports no limit.
const DEFAULT_TRANSFER: u32 = 64 << 10;
/// The maximum transfer in bytes, whose packet fits several times in a ring of 20 pages.
const MAX_TRANSFER: u32 = 2 << 20;
/// The maximum transfer on Fibre Channel in bytes: some hosts fail larger ones, and other guests use the same limit.
const MAX_FIBRE_CHANNEL: u32 = 512 << 10;
/// Paths of a Fibre Channel adapter, and targets on each.
const FIBRE_CHANNEL_PATHS: u8 = 8;
const FIBRE_CHANNEL_TARGETS: u16 = 128;
const PAGE_SHIFT: u32 = PAGE_SIZE.trailing_zeros();
/// The lengths in bytes of a packet: of hosts up to Windows Server 2008 R2, and of later ones.
const SHORT_PACKET: usize = 48;
const LONG_PACKET: usize = 64;
/// VMBus of Windows Server 2012.
const FIRST_WITH_LONG_PACKETS: Version = Version::new(2, 4);
/// The number of targets of a controller that are scanned.
const TARGETS: u16 = 2;
const VERSIONS: [StorvspVersion; 5] = [
    StorvspVersion::THRESHOLD,
    StorvspVersion::BLUE,
    StorvspVersion::WIN8,
    StorvspVersion::WIN7,
    StorvspVersion::WIN6,
];

/// Options with which the channels of a controller are opened.
#[derive(Copy, Clone, Debug)]
#[non_exhaustive]
pub struct StorOptions {
    /// The number of pages of each ring, its control page included.
    pub ring_pages: usize,
    /// The number of processors over which the interrupts of the channels are distributed, from processor 0 on.
    pub processors: u32,
    /// The newest StorVSP version that the driver offers to the host.
    pub newest: StorvspVersion,
}

impl StorOptions {
    /// Sets [`ring_pages`](Self::ring_pages).
    pub fn with_ring_pages(self, ring_pages: usize) -> Self {
        Self { ring_pages, ..self }
    }

    /// Sets [`processors`](Self::processors).
    pub fn with_processors(self, processors: u32) -> Self {
        Self { processors, ..self }
    }
}

impl Default for StorOptions {
    /// Rings of 128 KiB, one processor, the newest version.
    fn default() -> Self {
        Self { ring_pages: 33, processors: 1, newest: StorvspVersion::THRESHOLD }
    }
}

/// A controller on VMBus, which a [`Controller`](paravirt_scsi::Controller) opens.
pub struct StorTransport<P: Platform> {
    vmbus: Vmbus<P>,
    offer: Offer,
    options: StorOptions,
    limits: Limits,
    version: StorvspVersion,
    /// The number of subchannels that the host granted.
    subchannels: u16,
    /// When the host must have offered them.
    subchannels_due: Instant,
    /// The length in bytes of a packet during the initialisation.
    packet_len: usize,
    /// The transaction of the last step of an initialisation.
    steps: Cell<u64>,
    platform: P,
}

impl<P: Platform> fmt::Debug for StorTransport<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StorTransport")
            .field("offer", &self.offer)
            .field("version", &self.version)
            .field("subchannels", &self.subchannels)
            .finish_non_exhaustive()
    }
}

fn fault(error: ChannelError) -> Fault {
    match error {
        ChannelError::Gone => Fault::Removed,
        ChannelError::Faulted(fault) => fault,
        error => {
            log::error!("storvsc: {error}");
            Fault::Refused
        }
    }
}

impl<P: Platform> StorTransport<P> {
    /// Creates the transport of the controller of `offer`, for [`Controller::open`](paravirt_scsi::Controller::open). Sends
    /// nothing yet.
    pub fn new(platform: &P, vmbus: &Vmbus<P>, offer: &Offer, options: &StorOptions) -> Self {
        let mut limits = Limits::new(0, 0);
        limits.boundary = NonZeroU32::new(PAGE_SIZE as u32);
        Self {
            vmbus: vmbus.clone(),
            offer: *offer,
            options: *options,
            limits,
            version: StorvspVersion(0),
            subchannels: 0,
            subchannels_due: Instant::NEVER,
            // The version of StorVSP is not known yet, but that of the bus tells the host's age.
            packet_len: if vmbus.version() < FIRST_WITH_LONG_PACKETS { SHORT_PACKET } else { LONG_PACKET },
            steps: Cell::new(0x5e7),
            platform: platform.clone(),
        }
    }

    /// Returns the address of an IDE disk: its instance GUID contains the IDE channel and device.
    fn ide(&self) -> Address {
        let [path, _, _, _, target, ..] = self.offer.instance.0;
        Address { path, target, lun: 0 }
    }

    fn open_channel(&self, offer: &Offer, index: usize) -> Result<Channel<P>, Fault> {
        let processors = self.options.processors.max(1);
        let processor = ProcessorId((index as u32).checked_rem(processors).unwrap_or(0));
        let pages = self.options.ring_pages;
        let options = ChannelOptions::default().with_rings(pages, pages).with_processor(processor);
        self.vmbus.open(offer, &options).map_err(fault)
    }

    /// Opens the primary channel, and initialises the controller for `ports` ports.
    #[inline(never)]
    fn open_primary(&mut self, ports: usize) -> Result<Channel<P>, Fault> {
        // The host rescinds the subchannels of an earlier opening after the primary channel was closed, with a delay.
        let end = self.answer_deadline();
        for index in 1..=self.subchannels {
            self.wait_for_offer(index, false, end);
        }
        let offer = self.vmbus.find(&self.offer.instance, 0).ok_or(Fault::Removed)?;
        let mut channel = self.open_channel(&offer, 0)?;
        let wanted = u16::try_from(ports.saturating_sub(1)).unwrap_or(u16::MAX);
        self.initialize(&mut channel, wanted)?;
        Ok(channel)
    }

    /// Opens subchannel `index`; `None` if the host has granted fewer, or does not offer it.
    #[inline(never)]
    fn open_subchannel(&mut self, index: u16) -> Result<Option<Channel<P>>, Fault> {
        if index > self.subchannels {
            return Ok(None);
        }
        let Some(offer) = self.wait_for_offer(index, true, self.subchannels_due) else {
            log::warn!(
                "storvsc: {}: subchannel {index} was granted but not offered: using fewer queues",
                self.offer
            );
            return Ok(None);
        };
        self.open_channel(&offer, usize::from(index)).map(Some)
    }

    /// Performs one step of the initialisation: sends a packet and blocks until its completion, at most [`TIMEOUT`].
    fn step(&self, channel: &mut Channel<P>, packet: &(impl IntoBytes + Immutable)) -> Result<Answer, Fault> {
        // A completion that comes twice is not that of the next step.
        let step = self.steps.get().wrapping_add(1);
        self.steps.set(step);
        let bytes = packet.as_bytes();
        channel.send_in_band(step, true, &[bytes.get(..self.packet_len).unwrap_or(bytes)])?;
        channel.kick();
        let end = self.answer_deadline();
        let mut buffer = [0; PACKET];
        loop {
            let left = end.since(self.platform.now());
            let packet = channel.wait(&mut buffer, left)?;
            match HostPacket::parse(&packet).map_err(|_| Fault::Protocol)? {
                HostPacket::Completed { transaction, status } if transaction == step => {
                    return Ok(Answer { status, properties: properties(packet.payload) });
                }
                HostPacket::Completed { .. } | HostPacket::Rescan | HostPacket::Other(_)
                    if self.platform.now() >= end =>
                {
                    return Err(Fault::Timeout);
                }
                // Ignored: the scan after the initialisation finds all units.
                HostPacket::Completed { .. } | HostPacket::Rescan | HostPacket::Other(_) => {}
            }
        }
    }

    fn plain(&self, channel: &mut Channel<P>, operation: StorvspOperation) -> Result<Answer, Fault> {
        let answer = self.step(channel, &StorvspPlain { header: header(operation), padding: [0; 52] })?;
        if answer.status == StorvspNtStatus::SUCCESS {
            return Ok(answer);
        }
        let (offer, status) = (channel.offer(), answer.status.0);
        log::error!(
            "storvsc: {offer}: operation {} refused with status {status:#x}: controller not opened",
            operation.0
        );
        Err(Fault::Refused)
    }

    /// Negotiates the newest version that both sides support. QUERY_PROTOCOL_VERSION
    fn negotiate(&self, channel: &mut Channel<P>) -> Result<StorvspVersion, Fault> {
        for version in VERSIONS.into_iter().filter(|version| *version <= self.options.newest) {
            let header = header(StorvspOperation::QUERY_PROTOCOL_VERSION);
            let query = StorvspQueryVersion { header, version, revision: 0, padding: [0; 48] };
            if self.step(channel, &query)?.status == StorvspNtStatus::SUCCESS {
                return Ok(version);
            }
        }
        log::error!("storvsc: {}: no common protocol version: controller not opened", channel.offer());
        Err(Fault::Refused)
    }

    /// Initialises the controller, and asks for up to `wanted` subchannels.
    fn initialize(&mut self, channel: &mut Channel<P>, wanted: u16) -> Result<(), Fault> {
        let begin = StorvspPlain { header: header(StorvspOperation::BEGIN_INITIALIZATION), padding: [0; 52] };
        if self.step(channel, &begin)?.status != StorvspNtStatus::SUCCESS {
            // The host may expect packets of the other length.
            self.packet_len = if self.packet_len == SHORT_PACKET { LONG_PACKET } else { SHORT_PACKET };
            self.plain(channel, StorvspOperation::BEGIN_INITIALIZATION)?;
        }
        self.version = self.negotiate(channel)?;
        let answer = self.plain(channel, StorvspOperation::QUERY_PROPERTIES)?;
        let properties = answer.properties.ok_or(Fault::Protocol)?;
        let is_fibre_channel = self.offer.interface == FIBRE_CHANNEL;
        if is_fibre_channel {
            self.plain(channel, StorvspOperation::FC_HBA_DATA)?;
        }
        self.plain(channel, StorvspOperation::END_INITIALIZATION)?;
        let max_transfer = if is_fibre_channel { MAX_FIBRE_CHANNEL } else { MAX_TRANSFER };
        // One segment more than pages, since the first segment need not begin at a page boundary.
        let pages = match properties.maximum_transfer >> PAGE_SHIFT {
            0 => DEFAULT_TRANSFER >> PAGE_SHIFT,
            pages => pages.min(max_transfer >> PAGE_SHIFT),
        };
        self.limits.max_bytes = pages << PAGE_SHIFT;
        self.limits.max_segments = u16::try_from(pages.saturating_add(1)).unwrap_or(u16::MAX);
        let has_subchannels = self.version >= StorvspVersion::WIN8
            && self.offer.interface != IDE
            && properties.flags & StorvspChannelFlags::MULTICHANNEL.bits() != 0;
        self.subchannels = if has_subchannels { wanted.min(properties.maximum_sub_channels) } else { 0 };
        if self.subchannels > 0 {
            let header = header(StorvspOperation::CREATE_SUB_CHANNELS);
            let create = StorvspCreateSubChannels { header, count: self.subchannels, padding: [0; 50] };
            if self.step(channel, &create)?.status != StorvspNtStatus::SUCCESS {
                log::warn!("storvsc: {}: subchannels refused: using one queue", channel.offer());
                self.subchannels = 0;
            }
            self.subchannels_due = self.answer_deadline();
        }
        Ok(())
    }

    /// Returns when the bus must have given an answer that is awaited from now on.
    fn answer_deadline(&self) -> Instant {
        self.platform.now().saturating_add(self.vmbus.timeouts().answer)
    }

    /// Blocks until the host offers channel `index` of the device (`is_wanted`) or no longer offers it, at most until `end`. Returns
    /// the offer, if there is one.
    fn wait_for_offer(&self, index: u16, is_wanted: bool, end: Instant) -> Option<Offer> {
        loop {
            let offer = self.vmbus.find(&self.offer.instance, index);
            if offer.is_some() == is_wanted || self.platform.now() >= end {
                return offer;
            }
            self.platform.relax();
        }
    }
}

/// The completion of a step of the initialisation.
struct Answer {
    status: StorvspNtStatus,
    /// The properties in the answer to QUERY_PROPERTIES.
    properties: Option<StorvspProperties>,
}

#[allow(unsafe_code, reason = "the implementation of an unsafe trait")]
// SAFETY: `close` returns the result of `Channel::close`, which is `Ok` only after the host has confirmed that the rings are torn
// down. The host has then closed the channel and completed every request on it.
unsafe impl<P: Platform> ScsiTransport for StorTransport<P> {
    type Port = StorPort<P>;

    fn open(&mut self, index: usize, ports: usize, place: &mut Option<StorPort<P>>) -> Result<(), Fault> {
        let channel = match u16::try_from(index).unwrap_or(u16::MAX) {
            0 => Some(self.open_primary(ports)?),
            index => self.open_subchannel(index)?,
        };
        if let Some(channel) = channel {
            *place = Some(StorPort::new(channel, self.version));
        }
        Ok(())
    }

    fn close(&mut self, port: StorPort<P>) -> Result<(), Fault> {
        port.into_channel().close()
    }

    fn limits(&self) -> Limits {
        let mut limits = self.limits;
        limits.connection = self.vmbus.connection();
        limits
    }

    fn scan(&self) -> Scan {
        match self.offer.interface {
            IDE => Scan::One(self.ide()),
            FIBRE_CHANNEL => Scan::Paths { paths: FIBRE_CHANNEL_PATHS, targets: FIBRE_CHANNEL_TARGETS },
            _ => Scan::Targets(TARGETS),
        }
    }
}
