//! The completion of a command: pure, total, fuzzed.

use paravirt_scsi::{Sense, Status};

/// Bytes of sense data that a command has room for.
pub(crate) const SENSE_LEN: usize = 96;

/// Statuses of the host: of the adapter and the path to the target.
mod host {
    pub const SUCCESS: u16 = 0x00;
    /// Commands that were linked to others.
    pub const LINKED: u16 = 0x0a;
    pub const LINKED_WITH_FLAG: u16 = 0x0b;
    /// The target has transferred less than was asked for. QEMU reports the second one for every short transfer.
    pub const DATA_UNDERRUN: u16 = 0x0c;
    pub const DATA_OVER_OR_UNDERRUN: u16 = 0x12;
    pub const SELECTION_TIMEOUT: u16 = 0x11;
    pub const RESETS: [u16; 3] = [0x22, 0x23, 0x25];
    pub const ABORTED: u16 = 0x26;
}

/// Statuses of SCSI. SAM-5 §5.3
mod scsi {
    pub const GOOD: u16 = 0x00;
    pub const CHECK_CONDITION: u16 = 0x02;
    pub const BUSY: u16 = 0x08;
    pub const RESERVATION_CONFLICT: u16 = 0x18;
    pub const TASK_SET_FULL: u16 = 0x28;
}

/// An entry of the completion ring.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Completion {
    /// The context that the command was sent with.
    pub context: u64,
    /// Bytes that were transferred; 0 also where the adapter does not say.
    pub transferred: u64,
    /// Bytes of sense data that were written.
    pub sense_len: u32,
    /// The status of the host.
    pub host_status: u16,
    /// The status of the target.
    pub scsi_status: u16,
}

impl Completion {
    /// The entry in these words, in little-endian order.
    #[inline(always)]
    pub const fn new([context, transferred, third, _]: [u64; 4]) -> Self {
        Self {
            context,
            transferred,
            sense_len: third as u32,
            host_status: (third >> 32) as u16,
            scsi_status: (third >> 48) as u16,
        }
    }

    /// Returns how many bytes a command that asked for `len` has transferred, if it has succeeded without a further word.
    #[inline(always)]
    pub fn good(&self, len: u32) -> Option<u32> {
        let is_good = self.host_status == host::SUCCESS && self.scsi_status == scsi::GOOD;
        is_good.then(|| self.clamp(len).unwrap_or(len))
    }

    /// The bytes that the adapter says were transferred, at most `len`; `None` where it does not say.
    #[inline(always)]
    fn clamp(&self, len: u32) -> Option<u32> {
        (self.transferred != 0).then(|| u32::try_from(self.transferred).unwrap_or(u32::MAX).min(len))
    }

    /// Returns the status of a command that asked for `len` bytes, and how many were transferred. `may_be_short` if the target may transfer
    /// less, and the length is part of the data: where the adapter reports a short transfer without its length, the data are there.
    /// `sense` is what was written as sense data. The status of the target is judged first, as the host's is a consequence of it.
    pub fn status(&self, len: u32, may_be_short: bool, sense: &[u8; SENSE_LEN]) -> (Status, u32) {
        match self.scsi_status {
            scsi::GOOD => {}
            scsi::CHECK_CONDITION => {
                let sense_len = usize::try_from(self.sense_len).unwrap_or(usize::MAX);
                let sense = sense.get(..sense_len).unwrap_or(sense);
                let sense = if sense.is_empty() { None } else { Sense::parse(sense) };
                // The sense data may report success: the length counts then.
                let is_whole = self.host_status == host::SUCCESS;
                return (Status::Check(sense), self.clamp(len).unwrap_or(if is_whole { len } else { 0 }));
            }
            scsi::BUSY | scsi::TASK_SET_FULL => return (Status::Busy, 0),
            scsi::RESERVATION_CONFLICT => return (Status::Refused, 0),
            _ => return (Status::Error, 0),
        }
        let status = match self.host_status {
            host::SUCCESS | host::LINKED | host::LINKED_WITH_FLAG => {
                return (Status::Good, self.clamp(len).unwrap_or(len));
            }
            host::DATA_UNDERRUN | host::DATA_OVER_OR_UNDERRUN => {
                return (Status::Good, self.clamp(len).unwrap_or(if may_be_short { len } else { 0 }));
            }
            host::SELECTION_TIMEOUT => Status::NoPath,
            host::ABORTED => Status::Aborted,
            other if host::RESETS.contains(&other) => Status::Aborted,
            _ => Status::Error,
        };
        (status, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_SENSE: [u8; SENSE_LEN] = [0; SENSE_LEN];

    fn completion(host: u64, scsi: u64, transferred: u64) -> Completion {
        Completion::new([1, transferred, 18 | host << 32 | scsi << 48, 0])
    }

    #[test]
    fn the_length_is_whole_where_a_success_does_not_tell_it() {
        assert_eq!(completion(0, 0, 0).good(4096), Some(4096));
        assert_eq!(completion(0, 0, 512).good(4096), Some(512));
        assert_eq!(completion(0, 0, u64::MAX).good(4096), Some(4096));
        assert_eq!((completion(0x12, 0, 0).good(4096), completion(0, 2, 0).good(4096)), (None, None));
    }

    /// QEMU reports 0x12 without a length for INQUIRY and REPORT LUNS whose answers are short.
    #[test]
    fn a_short_answer_is_good_and_a_short_transfer_is_not() {
        for host in [0x0c, 0x12] {
            assert_eq!(completion(host, 0, 0).status(64, true, &NO_SENSE), (Status::Good, 64));
            assert_eq!(completion(host, 0, 0).status(64, false, &NO_SENSE), (Status::Good, 0));
            assert_eq!(completion(host, 0, 16).status(64, false, &NO_SENSE), (Status::Good, 16));
        }
    }

    /// A read past the end is 0x12 with CHECK CONDITION.
    #[test]
    fn the_target_is_judged_before_the_host() {
        let mut sense = NO_SENSE;
        (sense[0], sense[2], sense[12]) = (0x70, 5, 0x21);
        let (status, _) = completion(0x12, 2, 0).status(512, false, &sense);
        let Status::Check(Some(found)) = status else { panic!("{status:?}") };
        assert_eq!((found.key, found.code), (5, 0x21));
        let mut silent = completion(0x12, 2, 0);
        silent.sense_len = 0;
        assert_eq!(silent.status(512, false, &sense).0, Status::Check(None));
        silent.sense_len = u32::MAX;
        assert_eq!(silent.status(512, false, &sense).0, Status::Check(Some(found)));
    }

    #[test]
    fn every_other_status_has_its_meaning() {
        let status = |host, scsi| completion(host, scsi, 0).status(512, false, &NO_SENSE).0;
        assert_eq!(
            (status(0, 8), status(0, 0x28), status(0, 0x18)),
            (Status::Busy, Status::Busy, Status::Refused)
        );
        assert_eq!((status(0x11, 0), status(0x26, 0)), (Status::NoPath, Status::Aborted));
        assert!([0x22, 0x23, 0x25].iter().all(|host| status(*host, 0) == Status::Aborted));
        assert_eq!((status(0x0a, 0), status(0x0b, 0)), (Status::Good, Status::Good));
        assert_eq!(
            (status(0x1a, 0), status(0xffff, 0), status(0, 0xff)),
            (Status::Error, Status::Error, Status::Error)
        );
    }
}
