//! The owners of commands: queues of disks, and the controller itself.

/// A set of owners.
pub(crate) type Owners = u128;
/// How many owners there can be, [`NOBODY`] included.
pub(crate) const MAX_OWNERS: usize = Owners::BITS as usize;
/// The owner that is the controller itself.
pub(crate) const CONTROLLER: u16 = 0;
/// Who receives for others alone: has no commands.
pub(crate) const NOBODY: u16 = MAX_OWNERS as u16 - 1;

/// The set of one owner.
pub(crate) const fn bit(owner: u16) -> Owners {
    1u128.wrapping_shl(owner as u32)
}
