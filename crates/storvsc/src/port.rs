//! The SCSI port of a controller: sends commands on a channel and receives their completions.

use crate::message::{Executed, HostPacket, MIN_EXECUTE};
use core::fmt;
use core::mem::offset_of;
use core::task::Waker;
use hyperv_bindings::storvsp::{
    STORVSP_QUEUE_ACTION_SIMPLE, STORVSP_QUEUE_TAG_NONE, STORVSP_REQUEST_LENGTH_WIN7, STORVSP_SENSE_LENGTH,
    STORVSP_SENSE_LENGTH_WIN7, StorvspDirection, StorvspExecute, StorvspHeader, StorvspNtStatus,
    StorvspOperation, StorvspPacketFlags, StorvspPlain, StorvspScsiRequest, StorvspSrbFlags, StorvspVersion,
};
use paravirt_device::{Arm, Fault, Rejected};
use paravirt_platform::{Direction, Platform};
use paravirt_scsi::{Address, Command, Event, ScsiPort};
use paravirt_vmbus::{Channel, Kind, Payload};
use zerocopy::{FromZeros, IntoBytes};

/// The maximum length in bytes of a packet from the host.
pub(crate) const PACKET: usize = 256;
/// The timeout in seconds in each command, for the host's information.
const TIMEOUT_SECONDS: u32 = 60;
/// Packets that mean nothing to the driver and are passed over in one call, at most.
const MAX_IGNORED: u32 = 256;

pub(crate) fn header(operation: StorvspOperation) -> StorvspHeader {
    StorvspHeader {
        operation,
        flags: StorvspPacketFlags::REQUEST_COMPLETION.bits(),
        status: StorvspNtStatus::SUCCESS,
    }
}

/// An open channel of a controller.
pub struct StorPort<P: Platform> {
    channel: Channel<P>,
    /// The words that all commands have in common.
    template: [u64; WORDS],
    buffer: [u8; PACKET],
    /// Packets of the host that were malformed.
    malformed: u32,
}

impl<P: Platform> fmt::Debug for StorPort<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StorPort")
            .field("channel", &self.channel)
            .field("malformed", &self.malformed)
            .finish_non_exhaustive()
    }
}

impl<P: Platform> StorPort<P> {
    pub(crate) fn new(channel: Channel<P>, version: StorvspVersion) -> Self {
        let (length, sense_length) = match version < StorvspVersion::WIN8 {
            true => (STORVSP_REQUEST_LENGTH_WIN7 as u16, STORVSP_SENSE_LENGTH_WIN7 as u8),
            false => (size_of::<StorvspScsiRequest>() as u16, STORVSP_SENSE_LENGTH as u8),
        };
        let request = StorvspScsiRequest {
            length,
            sense_length,
            queue_tag: STORVSP_QUEUE_TAG_NONE as u8,
            queue_action: STORVSP_QUEUE_ACTION_SIMPLE as u8,
            srb_flags: COMMON_FLAGS.bits(),
            timeout: TIMEOUT_SECONDS,
            ..StorvspScsiRequest::new_zeroed()
        };
        let execute = StorvspExecute { header: header(StorvspOperation::EXECUTE_SRB), request };
        Self { channel, template: zerocopy::transmute!(execute), buffer: [0; PACKET], malformed: 0 }
    }

    /// Sends a command with no data or several segments, or whose packet wraps around the end of the ring.
    #[inline(never)]
    fn send_any(&mut self, id: u64, command: Command<'_>) -> Result<(), Rejected> {
        let lun = u8::try_from(command.address.lun).map_err(|_| Rejected::Invalid)?;
        let packet = Execute { template: &self.template, lun, command: &command }.words();
        let payload = &[packet.as_bytes()];
        let sent = match command.memory.as_slice() {
            [] => self.channel.send_in_band(id, true, payload),
            _ => self.channel.send_gpa_direct(id, command.memory, payload),
        };
        sent.map_err(Rejected::from)
    }

    pub(crate) fn into_channel(self) -> Channel<P> {
        self.channel
    }
}

/// The number of words of a command packet.
const WORDS: usize = size_of::<StorvspExecute>() / 8;

/// The payload of a command packet: the template, and the fields that differ.
struct Execute<'a> {
    template: &'a [u64; WORDS],
    lun: u8,
    command: &'a Command<'a>,
}

impl Payload<WORDS> for Execute<'_> {
    /// Returns the template with the command's fields at their offsets in [`StorvspScsiRequest`].
    #[inline(always)]
    fn words(self) -> [u64; WORDS] {
        let Self { template, lun, command } = self;
        let Command { address: Address { path, target, .. }, cdb, memory, len, .. } = *command;
        let (direction, flag) = match (memory.as_slice().is_empty(), memory.direction()) {
            (true, _) => (StorvspDirection::NONE, StorvspSrbFlags::empty()),
            (false, Direction::ToDevice) => (StorvspDirection::OUT, StorvspSrbFlags::DATA_OUT),
            (false, Direction::FromDevice) => (StorvspDirection::IN, StorvspSrbFlags::DATA_IN),
        };
        let unit = u64::from(u32::from_le_bytes([0, path, target, lun]));
        let [cdb_low, cdb_high] = cdb.words();
        let [a, b, c, d, e, f, g, h] = *template;
        [
            a,
            b,
            c | unit | u64::from(cdb.len()) << 32 | u64::from(direction.0) << 48,
            d | u64::from(len) | cdb_low << 32,
            e | cdb_low >> 32 | cdb_high << 32,
            f | cdb_high >> 32,
            g | u64::from(flag.bits()) << 32,
            h,
        ]
    }
}

// The offsets at which `Execute` sets the fields of a command.
const _: () = {
    const fn is_at(field: usize, word: usize, byte: usize) -> bool {
        size_of::<StorvspHeader>().wrapping_add(field) == word.wrapping_mul(8).wrapping_add(byte)
    }
    assert!(is_at(offset_of!(StorvspScsiRequest, path_id), 2, 1));
    assert!(is_at(offset_of!(StorvspScsiRequest, target_id), 2, 2));
    assert!(is_at(offset_of!(StorvspScsiRequest, lun), 2, 3));
    assert!(is_at(offset_of!(StorvspScsiRequest, cdb_length), 2, 4));
    assert!(is_at(offset_of!(StorvspScsiRequest, direction), 2, 6));
    assert!(is_at(offset_of!(StorvspScsiRequest, transfer_length), 3, 0));
    assert!(is_at(offset_of!(StorvspScsiRequest, cdb_or_sense), 3, 4));
    assert!(is_at(offset_of!(StorvspScsiRequest, srb_flags), 6, 4));
    assert!(WORDS == 8 && cfg!(target_endian = "little"));
};

const COMMON_FLAGS: StorvspSrbFlags = StorvspSrbFlags::QUEUE_ACTION_ENABLE
    .union(StorvspSrbFlags::NO_QUEUE_FREEZE)
    .union(StorvspSrbFlags::DISABLE_SYNCHRONOUS_TRANSFER);

#[allow(unsafe_code, reason = "the implementation of an unsafe trait")]
// SAFETY: only `Channel` gives addresses of a command's memory to the host; it takes them as `DmaSegments`, and the host does not
// see a packet that was not written. An id is returned only if the host has written a completion packet with it, by which StorVSP
// reports that it has completed the request and no longer accesses its memory.
unsafe impl<P: Platform> ScsiPort for StorPort<P> {
    #[inline(always)]
    fn send(&mut self, id: u64, command: &Command<'_>) -> Result<(), Rejected> {
        let Ok(lun) = u8::try_from(command.address.lun) else { return Err(Rejected::Invalid) };
        let Self { channel, template, .. } = self;
        match channel.send_gpa_page(id, command.memory, Execute { template, lun, command }) {
            Ok(true) => Ok(()),
            Ok(false) => self.send_any(id, *command),
            Err(error) => Err(error.into()),
        }
    }

    fn reset_bus(&mut self, id: u64) -> Result<(), Rejected> {
        let packet = StorvspPlain { header: header(StorvspOperation::RESET_BUS), padding: [0; 52] };
        self.channel.send_in_band(id, true, &[packet.as_bytes()]).map_err(Rejected::from)
    }

    fn kick(&mut self) {
        self.channel.kick();
    }

    #[inline(always)]
    fn receive_good(&mut self) -> Option<(u64, u32)> {
        const MIN_WORDS: u16 = (MIN_EXECUTE / 8) as u16;
        self.channel.receive_if(Kind::COMPLETION, MIN_WORDS, |id, words| {
            Executed::parse_good(words).map(|transferred| (id, transferred))
        })
    }

    fn receive(&mut self) -> Result<Option<Event>, Fault> {
        for _ in 0..MAX_IGNORED {
            let Some(packet) = self.channel.receive(&mut self.buffer)? else { return Ok(None) };
            let event = match HostPacket::parse(&packet) {
                Ok(HostPacket::Completed { transaction, .. }) => {
                    // On some hosts the completion of RESET_BUS consists of the header only.
                    let Executed { status, transferred } = Executed::parse(packet.payload)
                        .unwrap_or(Executed { status: paravirt_scsi::Status::Error, transferred: 0 });
                    Event::Reply { id: transaction, status, transferred }
                }
                Ok(HostPacket::Rescan) => Event::Rescan,
                Ok(HostPacket::Other(operation)) => {
                    log::debug!(
                        "storvsc: {}: unknown notification {operation}: ignored",
                        self.channel.offer()
                    );
                    continue;
                }
                // No memory depends on a packet that is none: a command whose completion it was meets its deadline.
                Err(_) => {
                    self.malformed = self.malformed.saturating_add(1);
                    if self.malformed == 1 {
                        log::warn!(
                            "storvsc: {}: malformed packet: ignored, as further ones",
                            self.channel.offer()
                        );
                    }
                    continue;
                }
            };
            return Ok(Some(event));
        }
        // The rest at the next call: no host keeps the driver here.
        Ok(None)
    }

    #[inline(always)]
    fn pause(&mut self) {
        self.channel.release_if_due();
    }

    fn arm(&mut self) -> Arm {
        self.channel.arm()
    }

    fn disarm(&mut self) {
        self.channel.disarm();
    }

    fn register(&mut self, waker: &Waker) {
        self.channel.register(waker);
    }
}
