//! Sense data, parsed: pure, total, fuzzed. SPC-4 §4.5

use paravirt_device::IoError;

/// Sense data of a command.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Sense {
    /// The sense key, 0 to 15.
    pub key: u8,
    /// The additional sense code.
    pub code: u8,
    /// And its qualifier.
    pub qualifier: u8,
    /// It is about an earlier command.
    pub is_deferred: bool,
}

/// Sense keys. SPC-4 §4.5.6
pub mod key {
    #![allow(missing_docs, reason = "the standard's names")]
    pub const NO_SENSE: u8 = 0;
    pub const RECOVERED: u8 = 1;
    pub const NOT_READY: u8 = 2;
    pub const MEDIUM_ERROR: u8 = 3;
    pub const HARDWARE_ERROR: u8 = 4;
    pub const ILLEGAL_REQUEST: u8 = 5;
    pub const UNIT_ATTENTION: u8 = 6;
    pub const DATA_PROTECT: u8 = 7;
    pub const ABORTED_COMMAND: u8 = 11;
}

/// What sense data mean for the command that they came with.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Disposition {
    /// The command was executed.
    Done,
    /// It was not executed, as something has changed, and is to be retried.
    Retry(Attention),
    /// It failed.
    Failed(IoError),
}

/// What has changed.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Attention {
    /// Capacity, write protection or another parameter of the unit, or its medium.
    Unit,
    /// Which units there are.
    Inventory,
    /// Nothing that matters: a reset.
    Other,
    /// It is not ready yet.
    NotReady,
}

impl Sense {
    /// Parses fixed or descriptor format; `None` where it is neither.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (code, rest) = bytes.split_first()?;
        let is_deferred = matches!(code & 0x7f, 0x71 | 0x73);
        match code & 0x7f {
            0x70 | 0x71 => {
                let key = rest.get(1)? & 0x0f;
                let at = |index: usize| rest.get(index).copied().unwrap_or(0);
                Some(Self { key, code: at(11), qualifier: at(12), is_deferred })
            }
            0x72 | 0x73 => {
                let [key, code, qualifier, ..] = rest else { return None };
                Some(Self { key: key & 0x0f, code: *code, qualifier: *qualifier, is_deferred })
            }
            _ => None,
        }
    }

    /// What it means for its command. SPC-4 table 48 and annex F
    pub fn disposition(&self) -> Disposition {
        // It is about an earlier command, and this one was not executed.
        if self.is_deferred && self.key != key::UNIT_ATTENTION {
            return Disposition::Retry(Attention::Other);
        }
        match (self.key, self.code, self.qualifier) {
            (key::NO_SENSE | key::RECOVERED, ..) => Disposition::Done,
            (key::UNIT_ATTENTION, 0x28 | 0x2a, _) => Disposition::Retry(Attention::Unit),
            (key::UNIT_ATTENTION, 0x3f, _) => Disposition::Retry(Attention::Inventory),
            (key::UNIT_ATTENTION, ..) => Disposition::Retry(Attention::Other),
            // Becoming ready.
            (key::NOT_READY, 0x04, 0x01) => Disposition::Retry(Attention::NotReady),
            (key::ABORTED_COMMAND, ..) => Disposition::Retry(Attention::Other),
            (key::MEDIUM_ERROR, ..) => Disposition::Failed(IoError::Medium),
            // The medium is not there.
            (key::NOT_READY, 0x3a, _) => Disposition::Failed(IoError::Medium),
            (key::ILLEGAL_REQUEST, 0x20 | 0x24 | 0x26, _) => Disposition::Failed(IoError::Unsupported),
            (key::ILLEGAL_REQUEST, 0x21, _) => Disposition::Failed(IoError::Range),
            (key::DATA_PROTECT, ..) => Disposition::Failed(IoError::ReadOnly),
            _ => Disposition::Failed(IoError::Device),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_and_descriptor_format_are_parsed_alike() {
        let mut fixed = [0u8; 18];
        (fixed[0], fixed[2], fixed[12], fixed[13]) = (0xf0, 6, 0x2a, 9);
        let expected = Sense { key: 6, code: 0x2a, qualifier: 9, is_deferred: false };
        assert_eq!(Sense::parse(&fixed), Some(expected));
        assert_eq!(Sense::parse(&[0x72, 6, 0x2a, 9, 0, 0, 0, 0]), Some(expected));
        assert_eq!(expected.disposition(), Disposition::Retry(Attention::Unit));
        // Short, and of no format at all.
        assert_eq!(Sense::parse(&fixed[..3]).map(|sense| (sense.key, sense.code)), Some((6, 0)));
        assert_eq!(
            (Sense::parse(&[0x28, 0, 0]), Sense::parse(&[]), Sense::parse(&[0x72])),
            (None, None, None)
        );
    }

    #[test]
    fn sense_codes_have_their_disposition() {
        let disposition =
            |key, code, qualifier| Sense { key, code, qualifier, is_deferred: false }.disposition();
        assert_eq!(disposition(7, 0x27, 0), Disposition::Failed(IoError::ReadOnly));
        assert_eq!(disposition(3, 0x11, 0), Disposition::Failed(IoError::Medium));
        assert_eq!(disposition(5, 0x20, 0), Disposition::Failed(IoError::Unsupported));
        assert_eq!(disposition(5, 0x21, 0), Disposition::Failed(IoError::Range));
        assert_eq!(disposition(6, 0x3f, 0x0e), Disposition::Retry(Attention::Inventory));
        assert_eq!(disposition(1, 0x17, 1), Disposition::Done);
        assert_eq!(disposition(2, 4, 1), Disposition::Retry(Attention::NotReady));
        // Deferred: this command was not executed, whatever became of the earlier one.
        let deferred = Sense { key: 1, code: 0x17, qualifier: 1, is_deferred: true };
        assert_eq!(deferred.disposition(), Disposition::Retry(Attention::Other));
    }
}
