//! A command with its data: how it is built, sent and identified to the host.

use crate::Cdb;
use crate::cdb::unmap_list;
use crate::transport::{Address, Command, ScsiPort};
use core::sync::atomic::{AtomicU64, Ordering};
use paravirt_device::{Fault, IoError, Rejected};
use paravirt_platform::{BusAddr, Direction, DmaBuffer, DmaRegion, DmaSegments, Instant, Platform, Segment};

/// Bytes for the UNMAP parameter list of a slot.
pub(crate) const LIST_STRIDE: usize = 32;
/// The id of a reset of the bus: its owner is none.
pub(crate) const RESET_ID: u64 = u64::MAX;

/// The id of a command to the host: the generation of its slot, so that a reply is accepted once, its owner, and its slot. Never 0.
#[inline(always)]
pub(crate) const fn command_id(generation: u32, owner: u16, slot: u16) -> u64 {
    (generation as u64) << 32 | (owner as u64) << 16 | (slot as u64).wrapping_add(1)
}

/// The id of the next command in the slot of `id`.
#[inline(always)]
pub(crate) const fn next_id(id: u64) -> u64 {
    id.wrapping_add(1 << 32)
}

/// The owner that an id names.
#[inline(always)]
pub(crate) const fn owner_of(id: u64) -> u16 {
    (id >> 16) as u16
}

/// The slot that an id names.
#[inline(always)]
pub(crate) const fn slot_of(id: u64) -> u16 {
    (id as u16).wrapping_sub(1)
}

/// The data of a command.
pub(crate) enum Data<B> {
    None,
    /// A buffer, in flight while the command is staged or sent.
    Buffer(B, Direction),
    /// A buffer that is not in flight, kept for the completion.
    Held(B),
    /// Memory of the controller's own.
    Own(Segment, Direction),
    /// A parameter list of one range to unmap.
    Unmap {
        lba: u64,
        blocks: u32,
    },
}

impl<B> Data<B> {
    /// The buffer, where there is one.
    pub fn into_buffer(self) -> Option<B> {
        match self {
            Self::Buffer(buffer, _) | Self::Held(buffer) => Some(buffer),
            _ => None,
        }
    }
}

/// What follows the success of a command.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum Stage {
    /// Its completion.
    Last,
    /// A flush in the same slot, as the write is to be durable.
    FlushBehind,
}

/// What the completion of a command carries, and what follows its success.
pub(crate) struct PendingCommand {
    pub tag: u64,
    pub deadline: Instant,
    pub stage: Stage,
}

/// A completed command.
pub(crate) struct Completed<B> {
    pub tag: u64,
    pub data: Data<B>,
    pub result: Result<(), IoError>,
    pub transferred: u32,
    /// There is no such unit.
    pub is_absent: bool,
}

/// Builds a command block for the segments of its data, and says how many bytes have to be transferred for a success.
pub(crate) trait BuildCdb {
    fn build(self, segments: &[Segment], cdb: &mut Cdb) -> Result<u32, Rejected>;
}

/// A command block that is known, and whose transfer length does not matter.
impl BuildCdb for Cdb {
    fn build(self, _segments: &[Segment], cdb: &mut Cdb) -> Result<u32, Rejected> {
        *cdb = self;
        Ok(0)
    }
}

/// The command block that is in the slot, with the same number of bytes.
pub(crate) struct Retry(pub u32);

impl BuildCdb for Retry {
    fn build(self, _segments: &[Segment], _cdb: &mut Cdb) -> Result<u32, Rejected> {
        Ok(self.0)
    }
}

/// Builds the command block for `memory` and sends the command.
pub(crate) fn transmit<Q: ScsiPort>(
    port: &mut Q,
    id: u64,
    address: Address,
    memory: DmaSegments<'_>,
    (cdb, to_transfer): (&mut Cdb, &mut u32),
    build: impl BuildCdb,
) -> Result<(), Rejected> {
    let segments = memory.as_slice();
    let len = segments.iter().fold(0u32, |sum, segment| sum.wrapping_add(segment.len));
    *to_transfer = build.build(segments, cdb)?;
    port.send(id, &Command { address, cdb, memory, len })
}

/// Calls `send` with the memory of `data`. A buffer is not in flight afterwards where that fails.
pub(crate) fn with_memory<P: Platform, B: DmaBuffer>(
    data: &mut Data<B>,
    lists: Option<&DmaRegion<P>>,
    slot: u16,
    send: impl FnOnce(DmaSegments<'_>) -> Result<(), Rejected>,
) -> Result<(), Rejected> {
    match data {
        Data::None | Data::Held(_) => send(DmaSegments::EMPTY),
        Data::Buffer(buffer, direction) => with_buffer(buffer, *direction, send),
        Data::Own(segment, direction) => {
            // SAFETY: the segment is in the controller's own region, which only atomics access, and which `ControllerShared`
            // leaks unless the transport has been closed.
            send(unsafe { DmaSegments::new(core::slice::from_ref(segment), *direction) })
        }
        Data::Unmap { lba, blocks } => {
            let list =
                [write_list(lists.ok_or(Fault::Timeout)?, slot, *lba, *blocks).ok_or(Rejected::Invalid)?];
            // SAFETY: the list is in the table's own region, which only atomics access, and which `CommandTable` leaks where it
            // is dropped with a command in flight; this slot's part of it is written again only for its next command.
            send(unsafe { DmaSegments::new(&list, Direction::ToDevice) })
        }
    }
}

/// Calls `send`, a use of [`ScsiPort::send`], with the memory of `buffer`, which is not in flight afterwards where that fails.
pub(crate) fn with_buffer<B: DmaBuffer>(
    buffer: &mut B,
    direction: Direction,
    send: impl FnOnce(DmaSegments<'_>) -> Result<(), Rejected>,
) -> Result<(), Rejected> {
    let sent = send(buffer.submit(direction).map_err(Rejected::Buffer)?);
    if sent.is_err() {
        // SAFETY: it was submitted above, and the contract of `ScsiPort::send` is that the controller does not access the memory
        // of a command that was not sent.
        unsafe { buffer.reclaim() };
    }
    sent
}

/// Writes the parameter list of an UNMAP to the part of `lists` that belongs to `slot`, and says where that is. SBC-3 §5.28
#[cold]
fn write_list<P: Platform>(lists: &DmaRegion<P>, slot: u16, lba: u64, blocks: u32) -> Option<Segment> {
    let offset = usize::from(slot).wrapping_mul(LIST_STRIDE);
    let list = lists.shared().at::<[AtomicU64; 3]>(offset)?;
    let words = unmap_list(lba, blocks);
    list.iter().zip(words).for_each(|(to, word)| to.store(word, Ordering::Relaxed));
    let addr = BusAddr(lists.bus().0.wrapping_add(offset as u64));
    Some(Segment { addr, len: size_of_val(&words) as u32 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_names_its_owner_and_slot_and_is_never_zero_nor_the_reset() {
        let id = command_id(7, 64, 1023);
        assert_eq!((owner_of(id), slot_of(id)), (64, 1023));
        assert_ne!(command_id(0, 0, 0), 0);
        assert_ne!(command_id(u32::MAX, 127, 1023), RESET_ID);
        assert_eq!(next_id(command_id(1, 1, 1)), command_id(2, 1, 1));
        assert_eq!(next_id(command_id(u32::MAX, 1, 1)), command_id(0, 1, 1));
    }
}
