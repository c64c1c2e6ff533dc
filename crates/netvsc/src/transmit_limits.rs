//! What a queue may send, and how much of it at once.

use core::ptr::NonNull;
use hyperv_bindings::netvsp::{NvspChannelType, NvspMessageType, NvspSendRndisPacket};
use paravirt_device::Offloads;

/// Sections of the send buffer that a queue uses, at most, however small the host makes them.
pub(crate) const MAX_SECTIONS: u16 = 1024;
/// Frames in memory of callers that a queue sends at once.
pub(crate) const MAX_CALLER_FRAMES: u16 = 256;
/// LSO bounce slots of a queue, where it has any.
pub(crate) const LSO_SLOTS: usize = 8;
/// Sends of a queue that can be outstanding: each section can be in two packets, since a frame may be committed after the
/// frames ahead of it in its section were sent.
pub(crate) const MAX_SENDS: usize = 2 * MAX_SECTIONS as usize + MAX_CALLER_FRAMES as usize + LSO_SLOTS;

/// What the device accepts.
#[derive(Copy, Clone, Debug)]
pub(crate) struct SendLimits {
    pub offloads: Offloads,
    /// Bytes of a frame that is sent as it is.
    pub max_frame: usize,
    /// Bytes of a frame that the host segments.
    pub max_segmented: usize,
    /// Frames in one packet.
    pub max_packets: u32,
}

/// A queue's part of the send buffer.
#[derive(Copy, Clone, Debug)]
pub(crate) struct SendBuffer {
    /// The first byte of the whole buffer, for the guest and for the host.
    pub cpu: NonNull<u8>,
    pub bus: u64,
    pub section_size: u32,
    /// The index of the queue's first section in the buffer, and how many it has.
    pub first: u16,
    pub count: u16,
}

// SAFETY: the sections from `first` on are used by one queue only: `open` gives each queue sections of its own.
unsafe impl Send for SendBuffer {}
// SAFETY: only the queue that owns the value, borrowed mutably, accesses what the pointer is to.
unsafe impl Sync for SendBuffer {}

/// The NVSP message that an RNDIS message comes with: in section `section` of the send buffer, or in the packet's own ranges.
pub(crate) fn nvsp_packet(channel_type: NvspChannelType, section: u32, len: u32) -> NvspSendRndisPacket {
    NvspSendRndisPacket {
        message_type: NvspMessageType::SEND_RNDIS_PACKET,
        channel_type,
        section_index: section,
        section_size: len,
        padding: [0; 24],
    }
}
