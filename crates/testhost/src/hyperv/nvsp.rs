//! The host's side of NVSP: control messages and the shared buffers.

use super::devices::{Packets, address};
use super::netvsp::Host;
use hyperv_bindings::netvsp::{NvspMessageType, NvspStatus, NvspVersion};

/// The offset of a frame in a sub-allocation of the receive buffer.
pub(super) const DATA_AT: usize = 256;
/// The length of a section of the send buffer in bytes.
pub(super) const SECTION: u32 = 6144;

/// A buffer that the guest shares.
#[derive(Default)]
pub(super) struct Buffer {
    pub frames: Vec<u64>,
}

impl Buffer {
    /// Returns the guest memory of `len` bytes at offset `at`; `None` if they are out of range.
    pub fn places(&self, at: usize, len: usize) -> Option<Vec<(u64, usize)>> {
        let (mut at, mut left, mut places) = (at, len, vec![]);
        while left > 0 {
            let now = left.min(4096 - at % 4096);
            places.push((address(*self.frames.get(at / 4096)?, (at % 4096) as u64)?, now));
            (at, left) = (at + now, left - now);
        }
        Some(places)
    }
}

/// Pads a message to the minimum length.
pub(super) fn padded(message: &[u8]) -> Vec<u8> {
    let mut bytes = message.to_vec();
    bytes.resize(bytes.len().max(40), 0);
    bytes
}

impl Host {
    /// Revokes the receive buffer. Packets in it may still be completed, which frees no sub-allocation.
    pub(super) fn take_receive_buffer_back(&mut self) {
        self.receive = Buffer::default();
        self.free.clear();
        self.used.values_mut().for_each(Vec::clear);
    }

    /// Handles an NVSP message; returns the response, which is empty if there is none, or `None` for a malformed message.
    pub(super) fn nvsp(
        &mut self,
        kind: NvspMessageType,
        payload: &[u8],
        out: &mut dyn Packets,
    ) -> Option<Vec<u8>> {
        let word = |at: usize| u32::from_le_bytes(payload[at..at + 4].try_into().expect("four bytes"));
        let answer =
            |words: &[u32]| padded(&words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>());
        match kind {
            NvspMessageType::INIT => {
                let version = NvspVersion(word(4));
                let known = [
                    NvspVersion::V1,
                    NvspVersion::V2,
                    NvspVersion::V4,
                    NvspVersion::V5,
                    NvspVersion::V6,
                    NvspVersion::V61,
                ];
                let is_known = known.contains(&version) && version <= self.fault_config.newest;
                self.version = if is_known { version } else { NvspVersion(0) };
                Some(answer(&[2, u32::MAX, 34, u32::from(is_known)]))
            }
            NvspMessageType::SEND_NDIS_CONFIG => {
                if self.version < NvspVersion::V2 || std::mem::replace(&mut self.config, true) {
                    self.violation("a configuration out of turn");
                }
                let asked = word(4).saturating_sub(14);
                self.fault_config.mtu =
                    if (1500..=9202).contains(&asked) { asked.min(self.fault_config.mtu) } else { 1500 };
                Some(vec![])
            }
            NvspMessageType::SEND_NDIS_VERSION => {
                if std::mem::replace(&mut self.ndis, true) {
                    self.violation("a version of NDIS twice");
                }
                Some(vec![])
            }
            NvspMessageType::SEND_RECEIVE_BUFFER => {
                if self.version >= NvspVersion::V2 && !self.config {
                    self.violation("a receive buffer ahead of the configuration");
                }
                self.take_receive_buffer_back();
                self.used.clear();
                let frames = out.memory(word(4));
                self.piece = DATA_AT + self.fault_config.mtu as usize + 14 + 36;
                let count = frames.len() * 4096 / self.piece;
                if count == 0 {
                    return Some(answer(&[102, NvspStatus::FAILURE.0]));
                }
                self.receive.frames = frames;
                self.free = (0..count).rev().collect();
                let size = self.piece as u32;
                Some(answer(&[102, 1, 1, 0, size, count as u32, count as u32 * size]))
            }
            NvspMessageType::SEND_SEND_BUFFER => {
                self.send.frames =
                    if self.fault_config.refuses_send_buffer { vec![] } else { out.memory(word(4)) };
                let status = if self.send.frames.is_empty() { 2 } else { 1 };
                Some(answer(&[105, status, SECTION]))
            }
            NvspMessageType::REVOKE_RECEIVE_BUFFER => {
                self.revoked = true;
                self.take_receive_buffer_back();
                Some(vec![])
            }
            NvspMessageType::REVOKE_SEND_BUFFER => {
                self.send = Buffer::default();
                Some(vec![])
            }
            NvspMessageType::SUBCHANNEL => {
                if self.version < NvspVersion::V5 || word(4) != 1 {
                    self.violation("further channels where there are none");
                }
                let is_granted = word(8) < self.fault_config.queues;
                if is_granted {
                    out.offer_further(word(8) as u16);
                    let mut table = vec![134, 16, 12];
                    table.extend((0..16).map(|at| at % self.fault_config.queues));
                    self.notices.push_back(table.iter().flat_map(|word: &u32| word.to_le_bytes()).collect());
                }
                Some(answer(&[133, if is_granted { 1 } else { 2 }, if is_granted { word(8) } else { 0 }]))
            }
            NvspMessageType::SWITCH_DATA_PATH => {
                self.path = word(4);
                Some(vec![])
            }
            _ => {
                self.violation(format!("message {}", kind.0));
                None
            }
        }
    }
}
