//! Parsers of packets from the host: pure, total, fuzzed.
//!
//! Source: `storvsp_protocol` of OpenVMM (MIT) and `hv_vstorage.h` of FreeBSD (BSD).

use core::mem::offset_of;
use hyperv_bindings::storvsp::{
    STORVSP_SENSE_LENGTH, StorvspExecute, StorvspHeader, StorvspNtStatus, StorvspOperation,
    StorvspProperties, StorvspScsiRequest, StorvspSrbStatus, StorvspSrbStatusFlags,
};
use paravirt_scsi::{Sense, Status};
use paravirt_vmbus::{Kind, Packet};
use zerocopy::FromBytes;

/// SCSI statuses. SAM-5 §5.3
mod scsi_status {
    pub const GOOD: u8 = 0;
    pub const CHECK_CONDITION: u8 = 2;
    pub const BUSY: u8 = 8;
    pub const RESERVATION_CONFLICT: u8 = 0x18;
    pub const TASK_SET_FULL: u8 = 0x28;
}

/// The minimum length of EXECUTE_SRB in bytes: up to the end of the command or sense data, which every version has.
pub const MIN_EXECUTE: usize = 48;
const _: () = assert!(
    MIN_EXECUTE
        == size_of::<StorvspHeader>()
            + offset_of!(StorvspScsiRequest, cdb_or_sense)
            + STORVSP_SENSE_LENGTH as usize
);
/// The mask of the SRB status without its flags.
const SRB_STATUS_MASK: u8 = !StorvspSrbStatusFlags::all().bits();

/// The first whole words of [`StorvspExecute`].
#[derive(FromBytes)]
#[repr(C)]
struct StorvspExecuteHead {
    header: StorvspHeader,
    length: u16,
    srb_status: u8,
    scsi_status: u8,
    reserved: [u8; 8],
    transfer_length: u32,
    cdb_or_sense: [u8; 4],
}

/// The number of words from which [`Executed::parse_good`] recognises a successful command.
pub const GOOD_WORDS: usize = size_of::<StorvspExecuteHead>() / 8;
const _: () = {
    const fn at(field: usize) -> usize {
        size_of::<StorvspHeader>().wrapping_add(field)
    }
    assert!(offset_of!(StorvspExecuteHead, srb_status) == at(offset_of!(StorvspScsiRequest, srb_status)));
    assert!(offset_of!(StorvspExecuteHead, scsi_status) == at(offset_of!(StorvspScsiRequest, scsi_status)));
    assert!(
        offset_of!(StorvspExecuteHead, transfer_length)
            == at(offset_of!(StorvspScsiRequest, transfer_length))
    );
};

/// The completion of a SCSI command (EXECUTE_SRB).
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Executed {
    /// The status of the command.
    pub status: Status,
    /// The number of bytes transferred, as the host reports it; 0 if the command failed without sense data.
    pub transferred: u32,
}

/// A packet from the host.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum HostPacket {
    /// COMPLETE_IO: a request has completed.
    Completed {
        /// The transaction id of the request.
        transaction: u64,
        /// The status of the operation, which is separate from the status of a SCSI command.
        status: StorvspNtStatus,
    },
    /// ENUMERATE_BUS, REMOVE_DEVICE or EVENT_NOTIFICATION: units may have been added or removed.
    Rescan,
    /// An unknown notification.
    Other(u32),
}

/// The packet is malformed.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Malformed;

impl HostPacket {
    /// Parses a packet.
    ///
    /// # Errors
    ///
    /// [`Malformed`] if the packet is too short or of a type that the protocol does not use.
    #[inline]
    pub fn parse(packet: &Packet<'_>) -> Result<Self, Malformed> {
        let (header, _) = StorvspHeader::read_from_prefix(packet.payload).map_err(|_| Malformed)?;
        match packet.kind {
            Kind::COMPLETION if header.operation == StorvspOperation::COMPLETE_IO => {
                Ok(Self::Completed { transaction: packet.transaction, status: header.status })
            }
            Kind::IN_BAND => Ok(match header.operation {
                StorvspOperation::ENUMERATE_BUS
                | StorvspOperation::REMOVE_DEVICE
                | StorvspOperation::EVENT_NOTIFICATION => Self::Rescan,
                StorvspOperation(other) => Self::Other(other),
            }),
            _ => Err(Malformed),
        }
    }
}

impl Executed {
    /// Parses the payload of a completed EXECUTE_SRB. Hosts before StorVSP 6.0 send less than [`StorvspExecute`]; missing bytes
    /// are read as zero.
    ///
    /// # Errors
    ///
    /// [`Malformed`] if the payload is shorter than [`MIN_EXECUTE`].
    pub fn parse(payload: &[u8]) -> Result<Self, Malformed> {
        let mut bytes = [0; size_of::<StorvspExecute>()];
        if payload.len() < MIN_EXECUTE {
            return Err(Malformed);
        }
        bytes.iter_mut().zip(payload).for_each(|(to, from)| *to = *from);
        let StorvspExecute { request, .. } = zerocopy::transmute!(bytes);
        if Self::is_good(request.srb_status, request.scsi_status) {
            return Ok(Self { status: Status::Good, transferred: request.transfer_length });
        }
        Ok(Self::failed(&request))
    }

    /// Returns whether the statuses are those of a successful command.
    #[inline(always)]
    const fn is_good(srb_status: u8, scsi_status: u8) -> bool {
        srb_status & SRB_STATUS_MASK == StorvspSrbStatus::SUCCESS.0 && scsi_status == scsi_status::GOOD
    }

    /// Returns the number of bytes transferred if the first words of a completion report a successful command; otherwise `None`.
    /// The rest of the completion of a successful command carries no information.
    #[inline(always)]
    pub fn parse_good(words: [u64; GOOD_WORDS]) -> Option<u32> {
        let head: StorvspExecuteHead = zerocopy::transmute!(words);
        let is_io = head.header.operation == StorvspOperation::COMPLETE_IO;
        (is_io && Self::is_good(head.srb_status, head.scsi_status)).then_some(head.transfer_length)
    }

    #[cold]
    fn failed(request: &StorvspScsiRequest) -> Self {
        let transferred = request.transfer_length;
        let flags = StorvspSrbStatusFlags::from_bits_truncate(request.srb_status);
        let code = StorvspSrbStatus(request.srb_status & SRB_STATUS_MASK);
        let sense = || {
            let bytes = &request.cdb_or_sense;
            Sense::parse(bytes.get(..usize::from(request.sense_length)).unwrap_or(bytes))
        };
        let status = match (request.scsi_status, code) {
            // The sense data may report success; the transfer length is then valid.
            (scsi_status::CHECK_CONDITION, _) if flags.contains(StorvspSrbStatusFlags::AUTOSENSE_VALID) => {
                return Self { status: Status::Check(sense()), transferred };
            }
            (_, StorvspSrbStatus::INVALID_LUN) => Status::NoUnit,
            (
                _,
                StorvspSrbStatus::NO_DEVICE
                | StorvspSrbStatus::INVALID_PATH
                | StorvspSrbStatus::INVALID_TARGET,
            ) => Status::NoPath,
            (scsi_status::BUSY | scsi_status::TASK_SET_FULL, _) | (_, StorvspSrbStatus::BUSY) => Status::Busy,
            // An underrun or overrun: the caller detects it by the transfer length.
            (scsi_status::GOOD, StorvspSrbStatus::DATA_OVERRUN) => {
                return Self { status: Status::Good, transferred };
            }
            (scsi_status::CHECK_CONDITION, _) => Status::Check(None),
            (
                _,
                StorvspSrbStatus::ABORTED | StorvspSrbStatus::BUS_RESET | StorvspSrbStatus::REQUEST_FLUSHED,
            ) => Status::Aborted,
            (scsi_status::RESERVATION_CONFLICT, _) => Status::Refused,
            (_, _) => Status::Error,
        };
        Self { status, transferred: 0 }
    }
}

/// Parses the properties in the completion of QUERY_PROPERTIES; `None` if it is too short.
pub fn properties(payload: &[u8]) -> Option<StorvspProperties> {
    let rest = payload.get(size_of::<StorvspHeader>()..)?;
    StorvspProperties::read_from_prefix(rest).ok().map(|(properties, _)| properties)
}

#[cfg(test)]
mod tests {
    use super::*;
    use paravirt_device::IoError;
    use paravirt_scsi::Disposition;
    use zerocopy::{FromZeros, IntoBytes};

    fn answer(srb: u8, scsi: u8, sense: &[u8]) -> Executed {
        let mut request = StorvspScsiRequest::new_zeroed();
        (request.srb_status, request.scsi_status, request.transfer_length) = (srb, scsi, 4096);
        request.sense_length = sense.len() as u8;
        request.cdb_or_sense[..sense.len()].copy_from_slice(sense);
        let header = StorvspHeader::new_zeroed();
        Executed::parse(StorvspExecute { header, request }.as_bytes()).expect("long enough")
    }

    #[test]
    fn srb_and_scsi_statuses_become_one_status() {
        assert_eq!(answer(1, 0, &[]), Executed { status: Status::Good, transferred: 4096 });
        // The flag QUEUE_FROZEN does not hide a success.
        assert_eq!(answer(0x41, 0, &[]).status, Status::Good);
        assert_eq!(answer(0x12, 0, &[]), Executed { status: Status::Good, transferred: 4096 });
        assert_eq!(answer(0x20, 2, &[]), Executed { status: Status::NoUnit, transferred: 0 });
        assert_eq!(answer(5, 0, &[]).status, Status::Busy);
        assert_eq!(answer(4, 8, &[]).status, Status::Busy);
        assert_eq!(answer(0x0e, 0, &[]).status, Status::Aborted);
        assert_eq!(answer(4, 0x18, &[]).status, Status::Refused);
        // TIMEOUT, SELECTION_TIMEOUT, INTERNAL_ERROR, ERROR without sense; a path that fails.
        for code in [9, 0x0a, 0x30, 4] {
            assert_eq!(answer(code, 0, &[]).status, Status::Error, "{code:#x}");
        }
        for code in [8, 7, 0x21] {
            assert_eq!(answer(code, 0, &[]).status, Status::NoPath, "{code:#x}");
        }
        // Sense data are used only if the flag AUTOSENSE_VALID is set.
        assert_eq!(answer(4, 2, &[0x72, 5, 0x20, 0]).status, Status::Check(None));
        let Status::Check(Some(sense)) = answer(0x86, 2, &[0x72, 5, 0x20, 0]).status else { panic!() };
        assert_eq!(sense.disposition(), Disposition::Failed(IoError::Unsupported));
        assert_eq!(Executed::parse(&[0; 47]), Err(Malformed));
    }
}
