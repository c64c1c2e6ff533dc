//! The host's side of RNDIS control messages: initialization, queries and settings of OIDs.

use super::devices::Packets;
use super::netvsp::Host;
use crate::Memory;
use hyperv_bindings::rndis::*;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

impl Host {
    /// Handles a control message.
    pub(super) fn control_message(&mut self, memory: &Memory, bytes: &[u8], out: &mut dyn Packets) {
        let Ok((request, _)) = RndisRequest::read_from_prefix(bytes) else {
            return self.violation("an RNDIS message that is too short");
        };
        let reply = |kind: RndisMessageType, words: &[u32], data: &[u8]| {
            let body: Vec<u8> =
                words.iter().flat_map(|word| word.to_le_bytes()).chain(data.iter().copied()).collect();
            let head = RndisHeader { message_type: kind, message_length: body.len() as u32 + 8 };
            [head.as_bytes(), &body].concat()
        };
        let id = request.request_id;
        let answer = match request.header.message_type {
            RndisMessageType::INITIALIZE => {
                if std::mem::replace(&mut self.initialized, true) {
                    self.violation("RNDIS is begun twice");
                }
                let words = [id, 0, 1, 0, 1, 0, 8, 0xefff_ffff, 3, 0, 0];
                reply(RndisMessageType::INITIALIZE_COMPLETE, &words, &[])
            }
            RndisMessageType::QUERY => {
                let Ok((query, _)) = RndisQuery::read_from_prefix(bytes) else {
                    return self.violation("a query that is too short");
                };
                self.oids.push(query.oid.0);
                let input = bytes.get(query.info_offset as usize + 8..).unwrap_or_default();
                match self.query(query.oid, input) {
                    Some(data) => {
                        let words = [id, 0, data.len() as u32, 16];
                        reply(RndisMessageType::QUERY_COMPLETE, &words, &data)
                    }
                    None => {
                        let words = [id, RndisStatus::NOT_SUPPORTED.0, 0, 0];
                        reply(RndisMessageType::QUERY_COMPLETE, &words, &[])
                    }
                }
            }
            RndisMessageType::SET => {
                let Ok((set, _)) = RndisQuery::read_from_prefix(bytes) else {
                    return self.violation("a setting that is too short");
                };
                self.oids.push(set.oid.0);
                let at = set.info_offset as usize + 8;
                let value = bytes.get(at..at + set.info_length as usize).unwrap_or_default().to_vec();
                let status = self.set(set.oid, &value);
                reply(RndisMessageType::SET_COMPLETE, &[id, status.0], &[])
            }
            RndisMessageType::HALT => {
                (self.halted, self.initialized, self.filter) = (true, false, 0);
                return;
            }
            RndisMessageType::KEEPALIVE_COMPLETE => return self.oids.push(id),
            other => return self.violation(format!("RNDIS message {:#x}", other.0)),
        };
        self.deliver(memory, &[answer], true, out);
    }

    fn query(&self, oid: RndisOid, input: &[u8]) -> Option<Vec<u8>> {
        Some(match oid {
            RndisOid::GEN_MAXIMUM_FRAME_SIZE => self.fault_config.mtu.to_le_bytes().to_vec(),
            RndisOid::IEEE_802_3_CURRENT_ADDRESS | RndisOid::IEEE_802_3_PERMANENT_ADDRESS => {
                self.fault_config.mac.to_vec()
            }
            RndisOid::GEN_LINK_SPEED => 100_000_000u32.to_le_bytes().to_vec(),
            RndisOid::GEN_MEDIA_CONNECT_STATUS => 0u32.to_le_bytes().to_vec(),
            RndisOid::IEEE_802_3_MAXIMUM_LIST_SIZE => 4u32.to_le_bytes().to_vec(),
            RndisOid::TCP_OFFLOAD_HARDWARE_CAPABILITIES => {
                let mut offload = NdisOffload::new_zeroed();
                offload.header = NdisObjectHeader { object_type: 0xa7, revision: 3, size: 156 };
                if !self.fault_config.lacks_offloads {
                    let all = NdisChecksumOffload { encapsulation: 2, flags: 0x155 };
                    (offload.tx_ipv4, offload.rx_ipv4, offload.tx_ipv6, offload.rx_ipv6) =
                        (all, all, all, all);
                    offload.lso2.ipv4_encapsulation = 2;
                    offload.lso2.ipv4_maximum_size = 0xf53c;
                    offload.lso2.ipv6_encapsulation = 2;
                    offload.lso2.ipv6_maximum_size = 0xf53c;
                }
                let mut bytes = offload.as_bytes().to_vec();
                bytes.resize(156, 0);
                // Of revision 3, as far as it was asked for.
                let is_asked = input.get(1).is_some_and(|revision| *revision >= 3) && input.len() >= 156;
                bytes[144] = if self.fault_config.lacks_offloads || !is_asked { 0 } else { 3 };
                bytes
            }
            RndisOid::GEN_RECEIVE_SCALE_CAPABILITIES => {
                let words = [0x0012_0288, 0x301, 1, self.fault_config.queues];
                let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
                bytes.extend(128u16.to_le_bytes());
                bytes
            }
            _ => return None,
        })
    }

    fn set(&mut self, oid: RndisOid, value: &[u8]) -> RndisStatus {
        let word =
            |at: usize| value.get(at..at + 4).map(|b| u32::from_le_bytes(b.try_into().expect("four bytes")));
        match oid {
            RndisOid::GEN_CURRENT_PACKET_FILTER => match word(0) {
                Some(filter) => self.filter = filter,
                None => return RndisStatus::FAILURE,
            },
            RndisOid::TCP_OFFLOAD_PARAMETERS if value.len() >= 20 && value[0] == 0x80 => {}
            RndisOid::IEEE_802_3_MULTICAST_LIST if value.len() % 6 == 0 => {}
            RndisOid::GEN_RECEIVE_SCALE_PARAMETERS => {
                let (Some(size), Some(offset)) = (word(12), word(16)) else {
                    return RndisStatus::INVALID_DATA;
                };
                let (size, offset) = ((size & 0xffff) as usize, offset as usize);
                let Some(table) = value.get(offset..offset + size) else { return RndisStatus::INVALID_DATA };
                let table: Vec<u32> = table
                    .chunks_exact(4)
                    .map(|b| u32::from_le_bytes(b.try_into().expect("four bytes")))
                    .collect();
                if table.is_empty() || table.iter().any(|entry| *entry >= self.fault_config.queues) {
                    return RndisStatus::INVALID_DATA;
                }
                self.table = table;
            }
            RndisOid::GEN_RNDIS_CONFIG_PARAMETER => {
                let text = |offset: Option<u32>, length: Option<u32>| {
                    let (offset, length) = (offset? as usize, length? as usize);
                    let bytes = value.get(offset..offset + length)?;
                    Some(bytes.chunks_exact(2).map(|pair| pair[0] as char).collect::<String>())
                };
                let (name, address) = (text(word(0), word(4)), text(word(12), word(16)));
                let is_address =
                    |text: &String| text.len() == 12 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
                let Some(text) = address.filter(is_address) else { return RndisStatus::INVALID_DATA };
                if name.as_deref() != Some("NetworkAddress") {
                    return RndisStatus::INVALID_DATA;
                }
                if self.fault_config.takes_mac {
                    for (at, byte) in self.fault_config.mac.iter_mut().enumerate() {
                        *byte = u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).expect("digits");
                    }
                }
            }
            _ => return RndisStatus::NOT_SUPPORTED,
        }
        RndisStatus::SUCCESS
    }
}
