//! Offloads: their negotiation and switching, by the NDIS structures of OID_TCP_OFFLOAD_*.

use crate::OpenError;
use crate::encode::ETHERNET;
use crate::shared::NetShared;
use hyperv_bindings::netvsp::NvspVersion;
use hyperv_bindings::rndis::*;
use paravirt_device::{ControlError, Offloads};
use paravirt_platform::{DmaBuffer, Platform};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// The offloads of the host, all of which were switched on.
pub(crate) struct Found {
    pub sends: Offloads,
    pub receives: Offloads,
    /// Bytes of the largest frame that the host segments; 0 where it segments none.
    pub max_segmented: usize,
}

/// Queries the offloads of the host, and switches all of them on.
pub(crate) fn negotiate<P: Platform, B: DmaBuffer>(shared: &NetShared<P, B>) -> Result<Found, OpenError> {
    let nothing = Found { sends: Offloads::empty(), receives: Offloads::empty(), max_segmented: 0 };
    // Only a question by revision 3 is answered with receive segment coalescing. The revision goes with the NDIS version.
    let (revision, size) = match shared.host.version() {
        version if version >= NvspVersion::V5 => (3, OFFLOAD_3_LEN),
        _ => (1, size_of::<NdisOffload>()),
    };
    let header = NdisObjectHeader { object_type: NDIS_OBJECT_OFFLOAD as u8, revision, size: size as u16 };
    let mut input = [0; OFFLOAD_3_LEN];
    let _ = header.write_to_prefix(&mut input);
    let input = input.get(..size).unwrap_or_default();
    let reply = match shared.query(RndisOid::TCP_OFFLOAD_HARDWARE_CAPABILITIES, input) {
        Ok(reply) => reply,
        Err(ControlError::Faulted(fault)) => return Err(fault.into()),
        Err(_) => return Ok(nothing),
    };
    let Ok((found, rest)) = NdisOffload::read_from_prefix(reply.bytes()) else { return Ok(nothing) };
    let both = NDIS_OFFLOAD_TCP_CHECKSUM | NDIS_OFFLOAD_UDP_CHECKSUM;
    let has = |offload: &NdisChecksumOffload| offload.encapsulation != 0 && offload.flags & both == both;
    let mut sends = Offloads::empty();
    sends.set(Offloads::TX_CHECKSUM, has(&found.tx_ipv4) && has(&found.tx_ipv6));
    let lso = &found.lso2;
    sends.set(Offloads::TX_TCP4, lso.ipv4_encapsulation != 0 && lso.ipv4_maximum_size > 0);
    sends.set(Offloads::TX_TCP6, lso.ipv6_encapsulation != 0 && lso.ipv6_maximum_size > 0);
    let sizes = [(Offloads::TX_TCP4, lso.ipv4_maximum_size), (Offloads::TX_TCP6, lso.ipv6_maximum_size)];
    let largest = sizes.iter().filter(|(flag, _)| sends.contains(*flag)).map(|(_, size)| *size).min();
    let max_segmented = usize::try_from(largest.unwrap_or(0)).unwrap_or(0).min(MAX_SEGMENTED);
    let mut receives = Offloads::empty();
    receives.set(Offloads::RX_CHECKSUM, has(&found.rx_ipv4) || has(&found.rx_ipv6));
    // In revision 3, behind IPsec version 2.
    let rsc = rest.get(RSC_OFFSET).copied().unwrap_or(0);
    receives.set(Offloads::RX_TCP4 | Offloads::RX_TCP6, rsc != 0);
    set_offloads(shared, sends, receives)?;
    Ok(Found { sends, receives, max_segmented })
}

/// The largest frame that the host segments: the largest IP packet, and its Ethernet header.
const MAX_SEGMENTED: usize = 65535 + ETHERNET;
/// Bytes of the structure of offloads in revision 3: behind revision 1, IPsec version 2, receive segment coalescing and NVGRE.
const OFFLOAD_3_LEN: usize = size_of::<NdisOffload>() + 44;
/// Offset of the receive segment coalescing flags from the end of revision 1.
const RSC_OFFSET: usize = 32;

/// Switches the offloads in `sends` and `receives` on, and the others off.
pub(crate) fn set_offloads<P: Platform, B: DmaBuffer>(
    shared: &NetShared<P, B>,
    sends: Offloads,
    receives: Offloads,
) -> Result<(), ControlError> {
    let checksum = match (sends.contains(Offloads::TX_CHECKSUM), receives.contains(Offloads::RX_CHECKSUM)) {
        (true, true) => NDIS_OFFLOAD_BOTH,
        (true, false) => NDIS_OFFLOAD_TX,
        (false, true) => NDIS_OFFLOAD_RX,
        (false, false) => NDIS_OFFLOAD_OFF,
    } as u8;
    let switch = |is_on: bool| if is_on { NDIS_OFFLOAD_ON as u8 } else { NDIS_OFFLOAD_OFF as u8 };
    let mut set = NdisOffloadParameters::new_zeroed();
    // Hosts before NVSP 5 know the structure up to IPsec.
    let (revision, size) = match shared.host.version() {
        version if version >= NvspVersion::V5 => (3, size_of::<NdisOffloadParameters>()),
        _ => (2, 22),
    };
    set.header = NdisObjectHeader { object_type: NDIS_OBJECT_DEFAULT as u8, revision, size: size as u16 };
    set.ipv4_checksum = checksum;
    set.tcp_ipv4_checksum = checksum;
    set.udp_ipv4_checksum = checksum;
    set.tcp_ipv6_checksum = checksum;
    set.udp_ipv6_checksum = checksum;
    set.lso2_ipv4 = switch(sends.contains(Offloads::TX_TCP4));
    set.lso2_ipv6 = switch(sends.contains(Offloads::TX_TCP6));
    set.rsc_ipv4 = switch(receives.contains(Offloads::RX_TCP4));
    set.rsc_ipv6 = switch(receives.contains(Offloads::RX_TCP6));
    let bytes = set.as_bytes().get(..size).unwrap_or_default();
    match shared.set(RndisOid::TCP_OFFLOAD_PARAMETERS, bytes) {
        // A host without the setting keeps its offloads as they are.
        Err(ControlError::Unsupported) => Ok(()),
        result => result,
    }
}
