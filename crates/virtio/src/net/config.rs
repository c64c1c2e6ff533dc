//! The configuration of a network device and its features: pure, total, fuzzed. VIRTIO 1.3 §5.1.3, §5.1.4

use bitflags::bitflags;
use paravirt_device::{Link, MacAddr, Offloads};

bitflags! {
    /// Feature bits of a network device. VIRTIO 1.3 §5.1.3
    #[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
    pub struct NetFeatures: u64 {
        /// It fills in checksums.
        const CSUM = 1 << 0;
        /// The driver takes frames with partial checksums.
        const GUEST_CSUM = 1 << 1;
        /// What the driver takes can be switched.
        const CTRL_GUEST_OFFLOADS = 1 << 2;
        /// It says its MTU.
        const MTU = 1 << 3;
        /// It says its address.
        const MAC = 1 << 5;
        /// The driver takes large TCP over IPv4.
        const GUEST_TSO4 = 1 << 7;
        /// The driver takes large TCP over IPv6.
        const GUEST_TSO6 = 1 << 8;
        /// It cuts up TCP over IPv4.
        const HOST_TSO4 = 1 << 11;
        /// It cuts up TCP over IPv6.
        const HOST_TSO6 = 1 << 12;
        /// A frame may come in several buffers.
        const MRG_RXBUF = 1 << 15;
        /// It says whether there is a link.
        const STATUS = 1 << 16;
        /// It has a control queue.
        const CTRL_VQ = 1 << 17;
        /// The receive mode can be set.
        const CTRL_RX = 1 << 18;
        /// It can ask the guest to announce itself.
        const GUEST_ANNOUNCE = 1 << 21;
        /// It has several pairs of queues.
        const MQ = 1 << 22;
        /// Its address can be set.
        const CTRL_MAC_ADDR = 1 << 23;
        /// The driver takes large UDP over IPv4.
        const GUEST_USO4 = 1 << 54;
        /// The driver takes large UDP over IPv6.
        const GUEST_USO6 = 1 << 55;
        /// It cuts up UDP.
        const HOST_USO = 1 << 56;
        /// It says its speed.
        const SPEED_DUPLEX = 1 << 63;
    }
}

impl NetFeatures {
    /// What makes large frames come in.
    pub const GUEST_LARGE: Self =
        Self::GUEST_TSO4.union(Self::GUEST_TSO6).union(Self::GUEST_USO4).union(Self::GUEST_USO6);

    /// What to accept of `offered`: everything whose requirements are met (§5.1.3.1), and large frames only where they can
    /// come in several buffers.
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

    /// What the device does for the guest under these features.
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

    /// The features by which the device is told to hand in what `offloads` wants (§5.1.6.5.6).
    pub fn guest_offloads(offloads: Offloads) -> Self {
        let mut features = Self::empty();
        features.set(Self::GUEST_CSUM, offloads.contains(Offloads::RX_CHECKSUM));
        features.set(Self::GUEST_TSO4, offloads.contains(Offloads::RX_TCP4));
        features.set(Self::GUEST_TSO6, offloads.contains(Offloads::RX_TCP6));
        features.set(Self::GUEST_USO4 | Self::GUEST_USO6, offloads.contains(Offloads::RX_UDP));
        features
    }
}

/// Bytes of the configuration that are read.
pub const CONFIG_LEN: usize = 20;

/// Its fields as `(offset, width)`.
pub const CONFIG_FIELDS: &[(u8, u8)] = &[
    (0, 1), // mac
    (1, 1),
    (2, 1),
    (3, 1),
    (4, 1),
    (5, 1),
    (6, 2),  // status
    (8, 2),  // max_virtqueue_pairs
    (10, 2), // mtu
    (12, 4), // speed
];

const STATUS_LINK_UP: u16 = 1;
const STATUS_ANNOUNCE: u16 = 2;
/// §5.1.4: the least that a device may say.
const MIN_MTU: u16 = 68;
const DEFAULT_MTU: u16 = 1500;

/// What the configuration says.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct NetConfig {
    /// The address, where it has one.
    pub mac: Option<MacAddr>,
    /// The link.
    pub link: Link,
    /// Whether the guest is asked to announce itself.
    pub announce: bool,
    /// Pairs of queues, at least 1.
    pub pairs: u16,
    /// The MTU.
    pub mtu: u16,
    /// Mbit/s.
    pub speed: Option<u32>,
}

/// Reads the configuration; `None` where it makes no sense.
pub fn parse(bytes: &[u8; CONFIG_LEN], features: NetFeatures) -> Option<NetConfig> {
    let [m0, m1, m2, m3, m4, m5, s0, s1, p0, p1, t0, t1, v0, v1, v2, v3, ..] = *bytes;
    let has = |feature| features.contains(feature);
    let status = if has(NetFeatures::STATUS) { u16::from_le_bytes([s0, s1]) } else { STATUS_LINK_UP };
    let pairs = if has(NetFeatures::MQ) { u16::from_le_bytes([p0, p1]) } else { 1 };
    let mtu = if has(NetFeatures::MTU) { u16::from_le_bytes([t0, t1]) } else { DEFAULT_MTU };
    // §5.1.4: 1 to 0x8000 pairs.
    if !(1..=0x8000).contains(&pairs) || mtu < MIN_MTU {
        return None;
    }
    let speed = u32::from_le_bytes([v0, v1, v2, v3]);
    Some(NetConfig {
        mac: has(NetFeatures::MAC).then_some(MacAddr([m0, m1, m2, m3, m4, m5])),
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
    fn fields_count_only_with_their_feature() {
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
    fn features_are_taken_only_with_what_they_require() {
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
