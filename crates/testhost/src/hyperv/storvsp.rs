//! A model of StorVSP: the host's side of storage on VMBus.

use super::devices::{Packets, VmbusDevice, places};
use super::ring::{HostPacket, PacketKind};
use super::violations::Violations;
use crate::Memory;
use crate::drive::{Answer, StorDrive};
use crate::memory::{gather, scatter};
use hyperv_bindings::storvsp::*;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// Maximum number of recorded commands.
const RECORDED: usize = 1 << 16;

/// The steps of the initialization.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
enum Step {
    #[default]
    Closed,
    Begun,
    Versioned,
    Queried,
    Ready,
}

/// Changes a completion that is about to be sent.
type Mutation = Box<dyn FnMut(&mut Vec<u8>) + Send>;

/// Fault injection settings.
#[derive(Default)]
pub struct StorFaultConfig {
    /// Commands are not completed until [`StorHost::release`].
    pub holds: bool,
    /// A bus reset aborts held commands.
    pub reset_aborts: bool,
    /// How many of the next commands complete with BUSY.
    pub busy: u32,
    /// SRB status and SCSI status of the next commands.
    pub fail: VecDeque<(u8, u8)>,
    /// SRB status and SCSI status of the commands for which it returns some, by command block.
    pub fail_if: Option<FailIf>,
    /// Changes every completion of a command before it is sent.
    pub mutate: Option<Mutation>,
    /// The length of packets other than commands; 0 for 64 only. Others are refused.
    pub packet_len: usize,
    /// Every completion of a command is sent twice.
    pub twice: bool,
}

/// Chooses, by command block, the SRB status and the SCSI status with which a command fails.
pub type FailIf = fn(&[u8; 16]) -> Option<(u8, u8)>;

struct Host {
    newest: StorvspVersion,
    further: u16,
    max_transfer: u32,
    step: Step,
    version: StorvspVersion,
    granted: u16,
    drives: BTreeMap<(u8, u8), StorDrive>,
    fault_config: StorFaultConfig,
    /// Held completions: channel, transaction id, packet.
    held: Vec<(u16, u64, Vec<u8>)>,
    /// Completions that were released and not yet sent.
    released: Vec<(u16, u64, Vec<u8>)>,
    notices: VecDeque<StorvspOperation>,
    commands: Vec<(u16, u8)>,
    cdbs: Vec<[u8; 16]>,
    resets: u32,
    lengths: Vec<usize>,
    versions: Vec<u16>,
    violations: Violations,
}

/// A model of a SCSI controller on VMBus with [`StorDrive`]s. A handle: clones are the same controller.
#[derive(Clone)]
pub struct StorHost {
    shared: Arc<Mutex<Host>>,
    /// The channel index; 0 for the primary channel.
    channel: u16,
}

impl Default for StorHost {
    fn default() -> Self {
        Self::new()
    }
}

impl StorHost {
    /// Creates a controller that accepts every version, without disks, with up to three subchannels.
    pub fn new() -> Self {
        let host = Host {
            newest: StorvspVersion::THRESHOLD,
            further: 3,
            max_transfer: 256 << 10,
            step: Step::Closed,
            version: StorvspVersion(0),
            granted: 0,
            drives: BTreeMap::new(),
            fault_config: StorFaultConfig::default(),
            held: vec![],
            released: vec![],
            notices: VecDeque::new(),
            commands: vec![],
            cdbs: vec![],
            resets: 0,
            lengths: vec![],
            versions: vec![],
            violations: Violations::default(),
        };
        Self { shared: Arc::new(Mutex::new(host)), channel: 0 }
    }

    fn with<R>(&self, work: impl FnOnce(&mut Host) -> R) -> R {
        work(&mut self.shared.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sets the newest version that is accepted.
    pub fn set_newest(&self, newest: StorvspVersion) {
        self.with(|host| host.newest = newest);
    }

    /// Sets the maximum number of subchannels.
    pub fn set_further(&self, count: u16) {
        self.with(|host| host.further = count);
    }

    /// Inserts a drive at `lun` of target 0, replacing the previous one.
    pub fn insert(&self, lun: u8, drive: StorDrive) {
        self.with(|host| host.drives.insert((0, lun), drive));
    }

    /// Removes the drive at `lun`.
    pub fn remove(&self, lun: u8) -> Option<StorDrive> {
        self.with(|host| host.drives.remove(&(0, lun)))
    }

    /// Queues a notification that units were added or removed.
    pub fn notify(&self, operation: StorvspOperation) {
        self.with(|host| host.notices.push_back(operation));
    }

    /// Calls `work` with the drive at `lun`; `None` if there is none.
    pub fn drive<R>(&self, lun: u8, work: impl FnOnce(&mut StorDrive) -> R) -> Option<R> {
        self.with(|host| host.drives.get_mut(&(0, lun)).map(work))
    }

    /// Changes the fault injection settings.
    pub fn fault_config(&self, change: impl FnOnce(&mut StorFaultConfig)) {
        self.with(|host| change(&mut host.fault_config));
    }

    /// Releases held completions, which are sent when the channels are served.
    pub fn release(&self) {
        self.with(|host| {
            let held = std::mem::take(&mut host.held);
            host.released.extend(held);
        });
    }

    /// Returns how many completions are held.
    pub fn held(&self) -> usize {
        self.with(|host| host.held.len())
    }

    /// Returns the commands since the last call: channel and opcode.
    pub fn take_commands(&self) -> Vec<(u16, u8)> {
        self.with(|host| {
            host.cdbs.clear();
            std::mem::take(&mut host.commands)
        })
    }

    /// Returns the CDBs of the commands since the last call of `take_commands`.
    pub fn cdbs(&self) -> Vec<[u8; 16]> {
        self.with(|host| host.cdbs.clone())
    }

    /// Returns the lengths in bytes of the packets since the last call.
    pub fn take_lengths(&self) -> Vec<usize> {
        self.with(|host| std::mem::take(&mut host.lengths))
    }

    /// Returns the number of bus resets.
    pub fn resets(&self) -> u32 {
        self.with(|host| host.resets)
    }

    /// Returns the versions that the guest has proposed.
    pub fn versions(&self) -> Vec<u16> {
        self.with(|host| host.versions.clone())
    }

    /// Returns the protocol violations of the guest so far.
    pub fn violations(&self) -> Vec<String> {
        self.with(|host| host.violations.list().to_vec())
    }
}

impl VmbusDevice for StorHost {
    fn open(&mut self) {
        if self.channel == 0 {
            self.with(|host| {
                (host.step, host.granted) = (Step::Closed, 0);
            });
        }
    }

    fn close(&mut self) {
        let channel = self.channel;
        self.with(|host| {
            host.held.retain(|held| held.0 != channel);
            host.released.retain(|held| held.0 != channel);
        });
    }

    fn further(&mut self, index: u16) -> Option<Box<dyn VmbusDevice>> {
        Some(Box::new(Self { shared: self.shared.clone(), channel: index }))
    }

    fn packet(&mut self, memory: &Memory, packet: &HostPacket<'_>, out: &mut dyn Packets) {
        let channel = self.channel;
        self.with(|host| {
            let Ok((header, rest)) = StorvspHeader::read_from_prefix(packet.payload) else {
                return host.violations.note("a packet without a header");
            };
            if !packet.wants_completion || header.flags != StorvspPacketFlags::REQUEST_COMPLETION.bits() {
                return host.violations.note("a packet that wants no completion");
            }
            let is_command = header.operation == StorvspOperation::EXECUTE_SRB;
            // Until the version is known, a guest may try the packets of the oldest hosts.
            let is_first = !is_command && packet.payload.len() == 48;
            if packet.payload.len() != 64 && !is_first && (is_command || host.fault_config.packet_len == 0) {
                host.violations.note(format!("a packet of {} bytes", packet.payload.len()));
            }
            host.lengths.push(packet.payload.len());
            if !is_command && ![0, packet.payload.len()].contains(&host.fault_config.packet_len) {
                let mut answer = StorvspPlain::new_zeroed();
                answer.header.operation = StorvspOperation::COMPLETE_IO;
                answer.header.status = StorvspNtStatus::INVALID_PARAMETER;
                return out.completion(packet.transaction, answer.as_bytes());
            }
            match header.operation {
                StorvspOperation::EXECUTE_SRB => {
                    let mut answer = packet.payload.to_vec();
                    let is_done = host.execute(memory, channel, packet, rest, &mut answer);
                    if let Some(mutate) = &mut host.fault_config.mutate {
                        mutate(&mut answer);
                    }
                    if is_done {
                        out.completion(packet.transaction, &answer);
                        if host.fault_config.twice {
                            out.completion(packet.transaction, &answer);
                        }
                    } else {
                        host.held.push((channel, packet.transaction, answer));
                    }
                }
                operation => {
                    let mut answer = StorvspPlain::new_zeroed();
                    answer.header.operation = StorvspOperation::COMPLETE_IO;
                    answer.header.status = host.control(channel, operation, rest, &mut answer.padding, out);
                    out.completion(packet.transaction, answer.as_bytes());
                }
            }
        });
    }

    fn poll(&mut self, _memory: &Memory, out: &mut dyn Packets) {
        let channel = self.channel;
        self.with(|host| {
            let mut kept = vec![];
            for (at, transaction, answer) in host.released.drain(..) {
                match at == channel {
                    true => out.completion(transaction, &answer),
                    false => kept.push((at, transaction, answer)),
                }
            }
            host.released = kept;
            if channel == 0 && host.step == Step::Ready {
                for operation in host.notices.drain(..) {
                    let mut notice = StorvspPlain::new_zeroed();
                    notice.header.operation = operation;
                    out.in_band(notice.as_bytes());
                }
            }
        });
    }
}

impl Host {
    /// Handles an operation other than EXECUTE_SRB; returns its status.
    fn control(
        &mut self,
        channel: u16,
        operation: StorvspOperation,
        payload: &[u8],
        answer: &mut [u8; 52],
        out: &mut dyn Packets,
    ) -> StorvspNtStatus {
        if channel > 0 {
            self.violations.note(format!("operation {} on channel {channel}", operation.0));
            return StorvspNtStatus::INVALID_DEVICE_STATE;
        }
        // The violation was recorded above.
        let first = payload.first_chunk().map_or(0, |bytes| u16::from_le_bytes(*bytes));
        match (operation, self.step) {
            (StorvspOperation::BEGIN_INITIALIZATION, Step::Closed) => self.step = Step::Begun,
            (StorvspOperation::QUERY_PROTOCOL_VERSION, Step::Begun) => {
                let version = StorvspVersion(first);
                self.versions.push(version.0);
                const KNOWN: [StorvspVersion; 5] = [
                    StorvspVersion::WIN6,
                    StorvspVersion::WIN7,
                    StorvspVersion::WIN8,
                    StorvspVersion::BLUE,
                    StorvspVersion::THRESHOLD,
                ];
                if !KNOWN.contains(&version) || version > self.newest {
                    return StorvspNtStatus::REVISION_MISMATCH;
                }
                (self.version, self.step) = (version, Step::Versioned);
            }
            (StorvspOperation::QUERY_PROPERTIES, Step::Versioned) => {
                let mut properties = StorvspProperties::new_zeroed();
                properties.maximum_sub_channels = self.further;
                properties.maximum_transfer = self.max_transfer;
                let is_new = self.version >= StorvspVersion::WIN8;
                properties.flags = if is_new { StorvspChannelFlags::MULTICHANNEL.bits() } else { 0 };
                answer[..24].copy_from_slice(properties.as_bytes());
                self.step = Step::Queried;
            }
            // The names of the adapter's ports, which a Fibre Channel guest asks for before it ends the set-up.
            (StorvspOperation::FC_HBA_DATA, Step::Queried) => {}
            (StorvspOperation::END_INITIALIZATION, Step::Queried) => self.step = Step::Ready,
            (StorvspOperation::CREATE_SUB_CHANNELS, Step::Ready) => {
                let count = first;
                if count > self.further || self.version < StorvspVersion::WIN8 {
                    self.violations.note(format!("{count} channels are asked for"));
                    return StorvspNtStatus::INVALID_PARAMETER;
                }
                self.granted = count;
                out.offer_further(count);
            }
            (StorvspOperation::RESET_BUS, Step::Ready) => {
                self.resets += 1;
                if self.fault_config.reset_aborts {
                    for (channel, transaction, mut answer) in self.held.drain(..) {
                        let mut request = StorvspScsiRequest::new_zeroed();
                        request.srb_status = StorvspSrbStatus::BUS_RESET.0;
                        // Its length may have been changed.
                        if let Some(to) = answer.get_mut(12..64) {
                            to.copy_from_slice(request.as_bytes());
                        }
                        self.released.push((channel, transaction, answer));
                    }
                }
            }
            _ => {
                self.violations.note(format!("operation {} in step {:?}", operation.0, self.step));
                return StorvspNtStatus::INVALID_DEVICE_STATE;
            }
        }
        StorvspNtStatus::SUCCESS
    }

    /// Handles a command; returns whether it is completed now.
    fn execute(
        &mut self,
        memory: &Memory,
        channel: u16,
        packet: &HostPacket<'_>,
        rest: &[u8],
        answer: &mut Vec<u8>,
    ) -> bool {
        let Ok((mut request, _)) = StorvspScsiRequest::read_from_prefix(rest) else {
            self.violations.note("a command that is too short");
            return true;
        };
        let data = self.check(packet, &request);
        let cdb: [u8; 16] = request.cdb_or_sense[..16].try_into().expect("sixteen bytes");
        if self.commands.len() < RECORDED {
            self.commands.push((channel, cdb[0]));
            self.cdbs.push(cdb);
        }
        let (mut srb, mut scsi, mut sense, mut transferred) = (StorvspSrbStatus::SUCCESS.0, 0u8, None, 0);
        if self.step != Step::Ready {
            self.violations.note("a command ahead of the end of the set-up");
            srb = StorvspSrbStatus::ERROR.0;
        } else if self.fault_config.busy > 0 {
            self.fault_config.busy -= 1;
            (srb, scsi) = (StorvspSrbStatus::BUSY.0, 8);
        } else if let Some(failure) = self.fault_config.fail_if.and_then(|fails| fails(&cdb)) {
            (srb, scsi) = failure;
        } else if let Some(failure) = self.fault_config.fail.pop_front() {
            (srb, scsi) = failure;
        } else {
            let from = match request.direction {
                StorvspDirection::OUT => gather(memory, &data),
                _ => vec![],
            };
            let room = data.iter().map(|range| range.1).sum::<usize>();
            match self.run(&request, &cdb, &from, room) {
                None => (srb, scsi) = (StorvspSrbStatus::INVALID_LUN.0, 2),
                Some(Answer::Done(len)) => transferred = len,
                Some(Answer::Data(bytes)) => {
                    transferred = scatter(memory, &data, &bytes) as u32;
                }
                Some(Answer::Sense(bytes)) => {
                    let code = match bytes[2] {
                        5 => StorvspSrbStatus::INVALID_REQUEST,
                        _ => StorvspSrbStatus::ERROR,
                    };
                    (srb, scsi) = (code.0 | StorvspSrbStatusFlags::AUTOSENSE_VALID.bits(), 2);
                    sense = Some(bytes);
                }
            }
        }
        request.srb_status = srb;
        request.scsi_status = scsi;
        request.transfer_length = transferred;
        request.cdb_or_sense = [0; 20];
        request.sense_length = 20;
        if let Some(sense) = sense {
            request.cdb_or_sense[..18].copy_from_slice(&sense);
        }
        let header = StorvspHeader {
            operation: StorvspOperation::COMPLETE_IO,
            flags: 0,
            status: StorvspNtStatus::SUCCESS,
        };
        *answer = StorvspExecute { header, request }.as_bytes().to_vec();
        !self.fault_config.holds
    }

    /// Checks lengths and memory of a command as a real host does; returns the memory.
    fn check(&mut self, packet: &HostPacket<'_>, request: &StorvspScsiRequest) -> Vec<(u64, usize)> {
        let length = if self.version < StorvspVersion::WIN8 { 0x24 } else { 0x34 };
        if request.length != length || !(6..=16).contains(&request.cdb_length) {
            self.violations.note("a command with wrong lengths");
        }
        let mut ranges = packet.gpa_ranges().into_iter().flatten();
        let Some(range) = ranges.next() else {
            if request.transfer_length != 0 || packet.kind != PacketKind::IN_BAND {
                self.violations.note("a command without its memory");
            }
            return vec![];
        };
        if ranges.next().is_some() || range.len < request.transfer_length {
            self.violations.note("more than one range, or one that is too short");
        }
        let expected = match request.direction {
            StorvspDirection::OUT => StorvspSrbFlags::DATA_OUT,
            StorvspDirection::IN => StorvspSrbFlags::DATA_IN,
            _ => {
                self.violations.note("memory without a direction");
                StorvspSrbFlags::empty()
            }
        };
        let both = StorvspSrbFlags::DATA_OUT.union(StorvspSrbFlags::DATA_IN);
        if StorvspSrbFlags::from_bits_retain(request.srb_flags).intersection(both) != expected {
            self.violations.note("direction and flags disagree");
        }
        places(&range, request.transfer_length as usize).unwrap_or_else(|| {
            self.violations.note("a command with memory beyond all addresses");
            vec![]
        })
    }

    /// Executes the command; `None` if there is no such unit.
    fn run(
        &mut self,
        request: &StorvspScsiRequest,
        cdb: &[u8; 16],
        from: &[u8],
        room: usize,
    ) -> Option<Answer> {
        // All drives are on the first path; guests scan other paths, too.
        let is_first = request.path_id == 0;
        if cdb[0] == 0xa0 {
            let luns = self.drives.keys().filter(|(target, _)| is_first && *target == request.target_id);
            let luns: Vec<u8> = luns.flat_map(|(_, lun)| [0, *lun, 0, 0, 0, 0, 0, 0]).collect();
            let head = (luns.len() as u32).to_be_bytes();
            return Some(Answer::Data([&head[..], &[0; 4], &luns].concat()));
        }
        match self.drives.get_mut(&(request.target_id, request.lun)).filter(|_| is_first) {
            Some(drive) => Some(drive.run(cdb, from, room)),
            None if cdb[0] == 0x12 && cdb[1] & 1 == 0 => {
                let mut bytes = vec![0x7f, 0, 5, 2, 31];
                bytes.resize(36, 0);
                Some(Answer::Data(bytes))
            }
            None => None,
        }
    }
}
