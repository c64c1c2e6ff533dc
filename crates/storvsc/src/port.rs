//! A channel to a controller: commands out, completions in.

use crate::message::{Executed, HostPacket};
use core::task::Waker;
use hyperv_bindings::storvsp::{
    STORVSP_QUEUE_ACTION_SIMPLE, STORVSP_QUEUE_TAG_NONE, STORVSP_REQUEST_LENGTH_WIN7, STORVSP_SENSE_LENGTH,
    STORVSP_SENSE_LENGTH_WIN7, StorvspDirection, StorvspExecute, StorvspHeader, StorvspNtStatus,
    StorvspOperation, StorvspPacketFlags, StorvspPlain, StorvspScsiRequest, StorvspSrbFlags, StorvspVersion,
};
use paravirt_device::{Arm, Fault, Rejected};
use paravirt_platform::{Direction, Platform};
use paravirt_scsi::{Address, Command, Event, Port};
use paravirt_vmbus::{Channel, SendError};
use zerocopy::IntoBytes;

/// Bytes of any packet of the host's.
pub(crate) const PACKET: usize = 256;
/// Seconds that the host is told a command may take. It is not held to that.
const TIMEOUT_SECONDS: u32 = 60;

pub(crate) fn header(operation: StorvspOperation) -> StorvspHeader {
    StorvspHeader {
        operation,
        flags: StorvspPacketFlags::REQUEST_COMPLETION.bits(),
        status: StorvspNtStatus::SUCCESS,
    }
}

/// A channel of a controller, in service.
pub struct StorPort<P: Platform> {
    channel: Channel<P>,
    /// The packet that was sent last: what is the same in every one stays.
    packet: StorvspExecute,
    buffer: [u8; PACKET],
}

impl<P: Platform> StorPort<P> {
    pub(crate) fn new(channel: Channel<P>, version: StorvspVersion) -> Self {
        let is_old = version < StorvspVersion::WIN8;
        let template = StorvspScsiRequest {
            length: if is_old {
                STORVSP_REQUEST_LENGTH_WIN7 as u16
            } else {
                size_of::<StorvspScsiRequest>() as u16
            },
            srb_status: 0,
            scsi_status: 0,
            reserved1: 0,
            path_id: 0,
            target_id: 0,
            lun: 0,
            cdb_length: 0,
            sense_length: if is_old { STORVSP_SENSE_LENGTH_WIN7 as u8 } else { STORVSP_SENSE_LENGTH as u8 },
            direction: StorvspDirection::NONE,
            reserved2: 0,
            transfer_length: 0,
            cdb_or_sense: [0; 20],
            reserved3: 0,
            queue_tag: STORVSP_QUEUE_TAG_NONE as u8,
            queue_action: STORVSP_QUEUE_ACTION_SIMPLE as u8,
            srb_flags: 0,
            timeout: TIMEOUT_SECONDS,
            queue_sort_key: 0,
        };
        let packet = StorvspExecute { header: header(StorvspOperation::EXECUTE_SRB), request: template };
        Self { channel, packet, buffer: [0; PACKET] }
    }

    pub(crate) fn into_channel(self) -> Channel<P> {
        self.channel
    }
}

const COMMON_FLAGS: StorvspSrbFlags = StorvspSrbFlags::QUEUE_ACTION_ENABLE
    .union(StorvspSrbFlags::NO_QUEUE_FREEZE)
    .union(StorvspSrbFlags::DISABLE_SYNCHRONOUS_TRANSFER);

#[cold]
fn refused(error: SendError) -> Rejected {
    match error {
        SendError::Full => Rejected::Full,
        SendError::Faulted(fault) => fault.into(),
        _ => Rejected::Invalid,
    }
}

impl<P: Platform> Port for StorPort<P> {
    #[inline]
    fn send(&mut self, id: u64, command: &Command<'_>) -> Result<(), Rejected> {
        let Command { address: Address { path, target, lun }, cdb, memory, len } = command;
        let (direction, flag) = match (memory.as_slice().is_empty(), memory.direction()) {
            (true, _) => (StorvspDirection::NONE, StorvspSrbFlags::empty()),
            (false, Direction::ToDevice) => (StorvspDirection::OUT, StorvspSrbFlags::DATA_OUT),
            (false, Direction::FromDevice) => (StorvspDirection::IN, StorvspSrbFlags::DATA_IN),
        };
        let Self { channel, packet, .. } = self;
        let request = &mut packet.request;
        request.path_id = *path;
        request.target_id = *target;
        request.lun = u8::try_from(*lun).map_err(|_| Rejected::Invalid)?;
        request.cdb_length = cdb.len();
        request.direction = direction;
        request.transfer_length = *len;
        if let Some(bytes) = request.cdb_or_sense.first_chunk_mut() {
            *bytes = *cdb.bytes();
        }
        request.srb_flags = COMMON_FLAGS.union(flag).bits();
        let payload = &[packet.as_bytes()];
        let sent = match memory.as_slice() {
            [] => channel.send_in_band(id, true, payload),
            _ => channel.send_gpa_direct(id, *memory, payload),
        };
        sent.map_err(refused)
    }

    fn reset_bus(&mut self, id: u64) -> Result<(), Rejected> {
        let packet = StorvspPlain { header: header(StorvspOperation::RESET_BUS), padding: [0; 52] };
        self.channel.send_in_band(id, true, &[packet.as_bytes()]).map_err(refused)
    }

    fn kick(&mut self) {
        self.channel.kick();
    }

    #[inline]
    fn next(&mut self) -> Result<Option<Event>, Fault> {
        loop {
            let Some(packet) = self.channel.receive(&mut self.buffer)? else { return Ok(None) };
            let event = match HostPacket::parse(&packet) {
                Ok(HostPacket::Completed { transaction, .. }) => {
                    // The answer to a reset has no more than a header on some hosts.
                    let Executed { status, transferred } = Executed::parse(packet.payload)
                        .unwrap_or(Executed { status: paravirt_scsi::Status::Error, transferred: 0 });
                    Event::Reply { id: transaction, status, transferred }
                }
                Ok(HostPacket::Rescan) => Event::Rescan,
                Ok(HostPacket::Other(operation)) => {
                    log::debug!("storvsc: {}: notification {operation}", self.channel.offer());
                    continue;
                }
                Err(_) => {
                    log::error!("storvsc: {}: a packet that is none", self.channel.offer());
                    self.channel.fail(Fault::Protocol);
                    return Err(Fault::Protocol);
                }
            };
            return Ok(Some(event));
        }
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
