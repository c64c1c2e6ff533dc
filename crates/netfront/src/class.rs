//! What the backend of a card and its frontend tell each other, and a pair of queues as the device has it.

use crate::card::NetFrontOptions;
use crate::rx::NetFrontRx;
use crate::tx::{NetFrontTx, TxLimits};
use core::fmt;
use core::marker::PhantomData;
use paravirt_device::{Link, MacAddr, NetTx, Offloads};
use paravirt_platform::{AllocError, DmaBuffer, PageArc, PageBox, Platform};
use paravirt_xen::bus::{Frontend, Nodes, State};
use paravirt_xen::{
    DeviceClass, DeviceError, FrontQueue, Hypervisor, InFlight, Port, QueueNodes, Status, StoreError,
    affordable,
};
use spin::Mutex;

/// What coalesces frames: both or none is asked for.
pub(crate) const LRO: Offloads = Offloads::RX_TCP4.union(Offloads::RX_TCP6);
/// The longest packet without pieces, and with them.
const MTU: u64 = 1500;
const MTUS: core::ops::RangeInclusive<u64> = 68..=65521;
/// The longest frame in one request.
const MAX_PIECE: u64 = 4096 - 14;

/// The number of multicast addresses that a backend's filter takes.
const MAX_MULTICAST: usize = 64;

/// Which multicast frames the backend is to deliver.
#[derive(Debug)]
pub(crate) struct Filter {
    /// Whether it is to deliver those to the addresses alone.
    pub is_on: bool,
    addresses: [MacAddr; MAX_MULTICAST],
    count: usize,
}

impl Filter {
    const fn new() -> Self {
        Self { is_on: false, addresses: [MacAddr([0; 6]); MAX_MULTICAST], count: 0 }
    }

    /// Returns the addresses that the backend is to be told of.
    fn active(&self) -> &[MacAddr] {
        let count = if self.is_on { self.count } else { 0 };
        self.addresses.get(..count).unwrap_or_default()
    }

    /// Sets the addresses; returns whether there is room for them.
    pub fn set(&mut self, addresses: &[MacAddr]) -> bool {
        let Some(room) = self.addresses.get_mut(..addresses.len()) else { return false };
        room.copy_from_slice(addresses);
        self.count = addresses.len();
        true
    }
}

/// A filter that the card and its first pair share.
pub(crate) type SharedFilter<P> = PageArc<P, Mutex<Filter>>;

/// Makes a filter, in a frame of its own.
#[inline(never)]
pub(crate) fn new_filter<P: Platform>(platform: &P) -> Result<SharedFilter<P>, AllocError> {
    PageArc::new(platform, Mutex::new(Filter::new()))
}

/// Makes a queue, in a frame of its own.
#[inline(never)]
fn boxed<P: Platform, Q>(
    hypervisor: &Hypervisor<P>,
    make: &mut dyn FnMut() -> Result<Q, AllocError>,
) -> Result<PageBox<P, Q>, AllocError> {
    PageBox::new(hypervisor.platform(), make()?)
}

/// A pair of queues, in pages of their own: passed on by value they would be much for a small stack.
pub struct Pair<P: Platform, B: DmaBuffer> {
    pub rx: PageBox<P, NetFrontRx<P>>,
    pub tx: PageBox<P, NetFrontTx<P, B>>,
    /// The first pair tells the backend of it when the card is connected.
    filter: Option<SharedFilter<P>>,
}

impl<P: Platform, B: DmaBuffer> Pair<P, B> {
    pub(crate) fn new(
        hypervisor: &PageArc<P, Hypervisor<P>>,
        domain: u16,
        status: &PageArc<P, Status>,
        depth: u16,
        limits: TxLimits,
        filter: Option<SharedFilter<P>>,
    ) -> Result<Self, AllocError> {
        Ok(Self {
            filter,
            rx: boxed(hypervisor, &mut || NetFrontRx::new(hypervisor, domain))?,
            tx: boxed(hypervisor, &mut || NetFrontTx::new(hypervisor, domain, status, depth, limits))?,
        })
    }
}

impl<P: Platform, B: DmaBuffer> FrontQueue<P> for Pair<P, B> {
    fn drain(&mut self, _in_flight: InFlight) {
        // Frames are not sent again: networks lose some.
        self.rx.drain();
        self.tx.drain();
    }

    fn restart(
        &mut self,
        frontend: &Frontend<P>,
        open_port: &mut dyn FnMut() -> Result<Port<P>, DeviceError>,
    ) -> Result<QueueNodes, DeviceError> {
        let mut nodes = QueueNodes::new();
        let mut open_port =
            || Ok::<_, DeviceError>(PageArc::new(frontend.hypervisor().platform(), open_port()?)?);
        let tx_port = open_port()?;
        let rx_port = if frontend.has("feature-split-event-channels")? {
            let rx_port = open_port()?;
            nodes.add("event-channel-tx", None, tx_port.number());
            nodes.add("event-channel-rx", None, rx_port.number());
            rx_port
        } else {
            nodes.add("event-channel", None, tx_port.number());
            tx_port.clone()
        };
        self.tx.restart(frontend.domain(), &tx_port)?;
        self.rx.restart(frontend.domain(), &rx_port)?;
        nodes.add("tx-ring-ref", None, self.tx.reference());
        nodes.add("rx-ring-ref", None, self.rx.reference());
        Ok(nodes)
    }

    fn resume(&mut self, gate: u32) {
        self.rx.set_gate(gate);
        self.tx.set_gate(gate);
        if let Some(filter) = &self.filter {
            self.tx.add_multicast(filter.lock().active());
        }
    }

    fn forget(&mut self) {
        while self.tx.sent().is_some() {}
    }

    fn for_each_port(&self, work: &mut dyn FnMut(&Port<P>)) {
        self.rx.port().into_iter().chain(self.tx.port()).for_each(work);
    }
}

impl<P: Platform, B: DmaBuffer> fmt::Debug for Pair<P, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair").field("rx", &self.rx).field("tx", &self.tx).finish()
    }
}

/// What was negotiated.
pub(crate) struct NetClass<P: Platform, B: DmaBuffer> {
    options: NetFrontOptions,
    pub pair_count: u16,
    is_opened: bool,
    /// How many pairs are in use.
    pub active: u16,
    pub mac: MacAddr,
    pub mtu: u16,
    pub link: Link,
    pub limits: TxLimits,
    /// What the guest wants of received frames.
    pub rx_offloads: Offloads,
    /// Whether the backend filters multicast frames.
    pub can_filter: bool,
    pub filter: SharedFilter<P>,
    _queue: PhantomData<fn() -> (P, B)>,
}

impl<P: Platform, B: DmaBuffer> NetClass<P, B> {
    pub fn new(options: NetFrontOptions, filter: SharedFilter<P>) -> Self {
        Self {
            options,
            pair_count: 1,
            is_opened: false,
            active: 1,
            mac: MacAddr::default(),
            mtu: MTU as u16,
            link: Link::Up,
            limits: TxLimits::default(),
            rx_offloads: Offloads::RX_CHECKSUM,
            can_filter: false,
            filter,
            _queue: PhantomData,
        }
    }

    /// Reads the state of the link.
    pub fn read_link(&mut self, frontend: &Frontend<P>) -> Result<(), StoreError> {
        self.link = if frontend.number("carrier", 1)? != 0 { Link::Up } else { Link::Down };
        Ok(())
    }
}

/// Reads a MAC address: six hexadecimal numbers.
fn mac(text: &str) -> Option<MacAddr> {
    let mut mac = [0; 6];
    let mut parts = text.as_bytes().split(|byte| *byte == b':');
    for byte in &mut mac {
        let part = parts.next().filter(|part| (1..=2).contains(&part.len()) && !part.starts_with(b"+"))?;
        *byte = u8::from_str_radix(core::str::from_utf8(part).ok()?, 16).ok()?;
    }
    parts.next().is_none().then_some(MacAddr(mac))
}

impl<P: Platform, B: DmaBuffer> DeviceClass<P> for NetClass<P, B> {
    type Queue = Pair<P, B>;
    const PUBLISHED: State = State::Connected;

    fn negotiate(&mut self, frontend: &Frontend<P>) -> Result<(), DeviceError> {
        self.mac = mac(frontend.text::<32>("mac")?.as_str()).ok_or(DeviceError::Unsupported)?;
        self.can_filter = frontend.has("feature-multicast-control")?;
        // Frames are copied by the backend, as all do: pages that it gave away would be another protocol.
        if !frontend.has("feature-rx-copy")? {
            return Err(DeviceError::Unsupported);
        }
        let has_pieces = frontend.has("feature-sg")?;
        let most = if has_pieces { *MTUS.end() } else { MAX_PIECE };
        let mtu = frontend.own_number("mtu")?.unwrap_or(MTU).min(most).max(*MTUS.start());
        let mut offloads = Offloads::TX_CHECKSUM;
        offloads.set(Offloads::TX_TCP4, has_pieces && frontend.has("feature-gso-tcpv4")?);
        offloads.set(Offloads::TX_TCP6, has_pieces && frontend.has("feature-gso-tcpv6")?);
        // Every backend fills in the checksums of IPv4, and few tell that they do not.
        if frontend.has("feature-no-csum-offload")? {
            offloads = Offloads::empty();
        }
        let max_frame = (mtu as usize).saturating_add(14);
        let limits = TxLimits { offloads, max_frame, has_pieces };
        let offered = frontend.offered_queues()?;
        if self.is_opened {
            // The backend of another host may do less than the queues do.
            let is_enough = offered >= self.active && limits.include(&self.limits);
            return if is_enough { Ok(()) } else { Err(DeviceError::Unsupported) };
        }
        (self.mtu, self.limits) = (mtu as u16, limits);
        let grants = frontend.hypervisor().grants_of_a_device();
        let each = self.limits.grants_of_a_pair(self.options.frames);
        self.pair_count = affordable(offered.min(self.options.pairs), grants, each);
        self.is_opened = true;
        Ok(())
    }

    fn active(&self, queues: u16) -> u16 {
        self.active.min(queues).max(1)
    }

    fn publish(&self, nodes: &Nodes<'_, P>, queues: u16) -> Result<(), StoreError> {
        let wants = |offload: Offloads| u32::from(self.rx_offloads.contains(offload));
        nodes.number("request-rx-copy", 1)?;
        nodes.number("feature-rx-notify", 1)?;
        nodes.number("feature-sg", 1)?;
        nodes.number("feature-gso-tcpv4", wants(Offloads::RX_TCP4))?;
        nodes.number("feature-gso-tcpv6", wants(Offloads::RX_TCP6))?;
        nodes.number("feature-no-csum-offload", 1u32.wrapping_sub(wants(Offloads::RX_CHECKSUM)))?;
        nodes.number("feature-ipv6-csum-offload", wants(Offloads::RX_CHECKSUM))?;
        nodes.number("request-multicast-control", self.filter.lock().is_on.into())?;
        nodes.number("multi-queue-num-queues", queues.into())
    }

    fn connected(&mut self, frontend: &Frontend<P>) -> Result<(), DeviceError> {
        Ok(self.read_link(frontend)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_six_hexadecimal_numbers() {
        assert_eq!(mac("00:16:3e:00:0a:FF"), Some(MacAddr([0, 0x16, 0x3e, 0, 10, 255])));
        for bad in [
            "",
            "00:16:3e:00:0a",
            "00:16:3e:00:0a:ff:1",
            "00:16:3e:00:0a:100",
            "00:16:3e:00:0a:+f",
            "zz:0:0:0:0:0",
        ] {
            assert_eq!(mac(bad), None, "{bad}");
        }
    }
}
