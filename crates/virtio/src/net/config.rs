//! The configuration and the feature bits of a network device: pure, total, fuzzed. VIRTIO 1.3 §5.1.3, §5.1.4

use crate::transport::config_fields;
use bitflags::bitflags;
use paravirt_device::{Link, MacAddr, Offloads};
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

bitflags! {
    /// Feature bits of a network device. VIRTIO 1.3 §5.1.3
    #[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
    pub struct NetFeatures: u64 {
        /// The device completes partial checksums of transmitted frames.
        const CSUM = 1 << 0;
        /// The driver accepts frames with partial checksums.
        const GUEST_CSUM = 1 << 1;
        /// Receive offloads can be changed by a control command.
        const CTRL_GUEST_OFFLOADS = 1 << 2;
        /// The configuration has the MTU.
        const MTU = 1 << 3;
        /// The configuration has the MAC address.
        const MAC = 1 << 5;
        /// The driver accepts coalesced TCP over IPv4.
        const GUEST_TSO4 = 1 << 7;
        /// The driver accepts coalesced TCP over IPv6.
        const GUEST_TSO6 = 1 << 8;
        /// The device segments TCP over IPv4.
        const HOST_TSO4 = 1 << 11;
        /// The device segments TCP over IPv6.
        const HOST_TSO6 = 1 << 12;
        /// A received frame may span several buffers.
        const MRG_RXBUF = 1 << 15;
        /// The configuration has the link status.
        const STATUS = 1 << 16;
        /// The device has a control queue.
        const CTRL_VQ = 1 << 17;
        /// The receive mode can be set by a control command.
        const CTRL_RX = 1 << 18;
        /// The device can ask the guest to send gratuitous packets.
        const GUEST_ANNOUNCE = 1 << 21;
        /// The device has several queue pairs.
        const MQ = 1 << 22;
        /// The MAC address can be set by a control command.
        const CTRL_MAC_ADDR = 1 << 23;
        /// The driver accepts coalesced UDP over IPv4.
        const GUEST_USO4 = 1 << 54;
        /// The driver accepts coalesced UDP over IPv6.
        const GUEST_USO6 = 1 << 55;
        /// The device segments UDP.
        const HOST_USO = 1 << 56;
        /// The configuration has speed and duplex mode.
        const SPEED_DUPLEX = 1 << 63;
    }
}

impl NetFeatures {
    /// The features that let the device deliver frames larger than the MTU.
    pub const GUEST_LARGE: Self =
        Self::GUEST_TSO4.union(Self::GUEST_TSO6).union(Self::GUEST_USO4).union(Self::GUEST_USO6);

    /// Selects the features to accept of `offered`: those whose dependencies are met (VIRTIO 1.3 §5.1.3.1), and coalesced frames only
    /// if they can span several buffers.
    pub fn choose(offered: Self) -> Self {
        let mut chosen = offered;
        if !chosen.contains(Self::CSUM) {
            chosen.remove(Self::HOST_TSO4 | Self::HOST_TSO6 | Self::HOST_USO);
        }
        if !chosen.contains(Self::GUEST_CSUM | Self::MRG_RXBUF) {
            chosen.remove(Self::GUEST_LARGE);
        }
        if !chosen.contains(Self::CTRL_VQ) {
            chosen.remove(
                Self::CTRL_RX
                    | Self::GUEST_ANNOUNCE
                    | Self::MQ
                    | Self::CTRL_MAC_ADDR
                    | Self::CTRL_GUEST_OFFLOADS,
            );
        }
        if !chosen.contains(Self::STATUS) {
            chosen.remove(Self::GUEST_ANNOUNCE);
        }
        chosen
    }

    /// The offloads that these features make available.
    pub fn offloads(self) -> Offloads {
        let mut offloads = Offloads::empty();
        for (feature, offload) in [
            (Self::CSUM, Offloads::TX_CHECKSUM),
            (Self::HOST_TSO4, Offloads::TX_TCP4),
            (Self::HOST_TSO6, Offloads::TX_TCP6),
            (Self::HOST_USO, Offloads::TX_UDP),
            (Self::GUEST_CSUM, Offloads::RX_CHECKSUM),
            (Self::GUEST_TSO4, Offloads::RX_TCP4),
            (Self::GUEST_TSO6, Offloads::RX_TCP6),
            (Self::GUEST_USO4.union(Self::GUEST_USO6), Offloads::RX_UDP),
        ] {
            offloads.set(offload, self.contains(feature));
        }
        offloads
    }

    /// The features that enable the receive part of `offloads` in a control command. VIRTIO 1.3 §5.1.6.5.6
    pub fn guest_offloads(offloads: Offloads) -> Self {
        let mut features = Self::empty();
        features.set(Self::GUEST_CSUM, offloads.contains(Offloads::RX_CHECKSUM));
        features.set(Self::GUEST_TSO4, offloads.contains(Offloads::RX_TCP4));
        features.set(Self::GUEST_TSO6, offloads.contains(Offloads::RX_TCP6));
        features.set(Self::GUEST_USO4 | Self::GUEST_USO6, offloads.contains(Offloads::RX_UDP));
        features
    }
}

/// The part of `struct virtio_net_config` that the driver reads. VIRTIO 1.3 §5.1.4
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct WireConfig {
    mac: [u8; 6],
    status: U16,
    max_virtqueue_pairs: U16,
    mtu: U16,
    speed: U32,
    _duplex: u8,
    _rss_max_key_size: u8,
    _rss_max_indirection_table_length: U16,
}

/// Bytes of the configuration that the driver reads.
pub const CONFIG_LEN: usize = size_of::<WireConfig>();
const _: () = assert!(CONFIG_LEN == 20);

/// The fields of the configuration that the driver reads, as `(offset, width)`, in bytes.
pub(super) const CONFIG_FIELDS: &[(u8, u8)] =
    config_fields!(WireConfig: mac, status, max_virtqueue_pairs, mtu, speed);

const STATUS_LINK_UP: u16 = 1;
const STATUS_ANNOUNCE: u16 = 2;
/// The smallest MTU that a device may report. VIRTIO 1.3 §5.1.4
const MIN_MTU: u16 = 68;
const DEFAULT_MTU: u16 = 1500;

/// A parsed configuration.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct NetConfig {
    /// MAC address; `None` if the device has none.
    pub mac: Option<MacAddr>,
    /// Link status.
    pub link: Link,
    /// Whether the device asks the guest to send gratuitous packets.
    pub announce: bool,
    /// Queue pairs, 1 to 0x8000.
    pub pairs: u16,
    /// MTU in bytes, at least 68.
    pub mtu: u16,
    /// Speed in Mbit/s; `None` if unknown.
    pub speed: Option<u32>,
}

/// Parses the configuration under the negotiated `features`; `None` if a field is out of range. Fields whose feature was not
/// negotiated have their defaults.
pub fn parse(bytes: &[u8; CONFIG_LEN], features: NetFeatures) -> Option<NetConfig> {
    let config: WireConfig = zerocopy::transmute!(*bytes);
    let has = |feature| features.contains(feature);
    let status = if has(NetFeatures::STATUS) { config.status.get() } else { STATUS_LINK_UP };
    let pairs = if has(NetFeatures::MQ) { config.max_virtqueue_pairs.get() } else { 1 };
    let mtu = if has(NetFeatures::MTU) { config.mtu.get() } else { DEFAULT_MTU };
    // §5.1.4: 1 to 0x8000 pairs.
    if !(1..=0x8000).contains(&pairs) || mtu < MIN_MTU {
        return None;
    }
    let speed = config.speed.get();
    Some(NetConfig {
        mac: has(NetFeatures::MAC).then_some(MacAddr(config.mac)),
        link: if status & STATUS_LINK_UP != 0 { Link::Up } else { Link::Down },
        announce: has(NetFeatures::GUEST_ANNOUNCE) && status & STATUS_ANNOUNCE != 0,
        pairs,
        mtu,
        // §5.1.4: any other value is "unknown".
        speed: (has(NetFeatures::SPEED_DUPLEX) && speed <= 0x7fff_ffff && speed > 0).then_some(speed),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_without_its_feature_has_its_default() {
        let bytes = [2, 0, 0, 0, 0, 1, 2, 0, 4, 0, 0x28, 0x23, 0x10, 0x27, 0, 0, 0, 0, 0, 0];
        let plain = parse(&bytes, NetFeatures::empty()).unwrap();
        let expected =
            NetConfig { mac: None, link: Link::Up, announce: false, pairs: 1, mtu: 1500, speed: None };
        assert_eq!(plain, expected);
        let full = parse(&bytes, NetFeatures::all()).unwrap();
        assert_eq!(
            (full.mac, full.link, full.announce),
            (Some(MacAddr([2, 0, 0, 0, 0, 1])), Link::Down, true)
        );
        assert_eq!((full.pairs, full.mtu, full.speed), (4, 9000, Some(10_000)));
        assert_eq!(parse(&[0; CONFIG_LEN], NetFeatures::MQ), None);
        assert_eq!(parse(&[0; CONFIG_LEN], NetFeatures::MTU), None);
    }

    #[test]
    fn a_feature_without_its_dependencies_is_not_accepted() {
        let all = NetFeatures::all();
        assert_eq!(NetFeatures::choose(all), all);
        assert!(!NetFeatures::choose(all - NetFeatures::MRG_RXBUF).intersects(NetFeatures::GUEST_LARGE));
        assert!(!NetFeatures::choose(all - NetFeatures::CSUM).contains(NetFeatures::HOST_TSO4));
        assert!(
            !NetFeatures::choose(all - NetFeatures::CTRL_VQ)
                .intersects(NetFeatures::MQ | NetFeatures::CTRL_RX)
        );
        let only_rx = Offloads::RX_CHECKSUM | Offloads::RX_TCP4;
        assert_eq!(NetFeatures::guest_offloads(only_rx).bits(), 1 << 1 | 1 << 7);
    }
}
