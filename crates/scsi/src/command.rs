//! A command in its slot, and how it is sent.

use crate::Cdb;
use crate::cdb::unmap_list;
use crate::port::{Address, Command, Port};
use crate::shared::Stage;
use core::sync::atomic::{AtomicU64, Ordering};
use paravirt_device::{Fault, IoError, Rejected};
use paravirt_platform::{BusAddr, Direction, DmaBuffer, DmaRegion, DmaSegments, Instant, Platform, Segment};

/// Bytes for the parameter list of a slot.
pub(crate) const LIST_STRIDE: usize = 32;

/// What the host is told of a slot: with its generation, so that an answer is accepted once.
pub(crate) const fn pack(generation: u32, slot: u16) -> u64 {
    (generation as u64) << 32 | (slot as u64).wrapping_add(1)
}

/// What goes with a command.
pub(crate) enum Data<B> {
    None,
    /// A buffer, lent while the command is under way.
    Buffer(B, Direction),
    /// A buffer that is not lent, kept for the completion.
    Held(B),
    /// Memory of the controller's own.
    Own(Segment, Direction),
    /// A list of one range to unmap.
    Unmap {
        lba: u64,
        blocks: u32,
    },
}

/// Where a command is.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum Place {
    Free,
    /// With the host.
    Sent,
    /// To be sent again.
    Later,
    /// In the list of those that are done.
    Done,
}

/// A command, and what becomes of it.
pub(crate) struct Wanted<B> {
    pub tag: u64,
    pub deadline: Instant,
    pub address: Address,
    pub stage: Stage,
    pub data: Data<B>,
}

/// A command under way, and what is known of it.
pub(crate) struct Slot<B> {
    pub place: Place,
    pub generation: u32,
    pub owner: u16,
    pub next: u16,
    pub attentions: u8,
    pub retries: u8,
    pub cdb: Cdb,
    /// Bytes that have to be transferred for it to be a success.
    pub len: u32,
    pub transferred: u32,
    pub result: Result<(), IoError>,
    /// There is no such unit.
    pub is_absent: bool,
    pub wanted: Option<Wanted<B>>,
}

/// A command that is done.
pub(crate) struct Finished<B> {
    pub tag: u64,
    pub data: Data<B>,
    pub result: Result<(), IoError>,
    pub transferred: u32,
    /// There is no such unit.
    pub is_absent: bool,
}

/// What makes a command of the segments of its data, and says how many bytes have to be transferred.
pub(crate) trait Make {
    /// Makes it.
    fn make(self, segments: &[Segment], cdb: &mut Cdb) -> Result<u32, Rejected>;
}

/// A command that transfers nothing which has to be counted.
impl Make for Cdb {
    fn make(self, _segments: &[Segment], cdb: &mut Cdb) -> Result<u32, Rejected> {
        *cdb = self;
        Ok(0)
    }
}

/// The command as it was, of so many bytes.
pub(crate) struct Again(pub u32);

impl Make for Again {
    fn make(self, _segments: &[Segment], _cdb: &mut Cdb) -> Result<u32, Rejected> {
        Ok(self.0)
    }
}

/// Lends the data and sends the command that `make` makes of them; nothing stays lent where that fails.
#[inline(always)]
pub(crate) fn transmit<P: Platform, Q: Port, B: DmaBuffer>(
    port: &mut Q,
    id: u64,
    wanted: &mut Wanted<B>,
    lists: &Option<DmaRegion<P>>,
    at: u16,
    (cdb, to_transfer): (&mut Cdb, &mut u32),
    make: impl Make,
) -> Result<(), Rejected> {
    let Wanted { address, data, .. } = wanted;
    let list;
    let memory = match data {
        Data::Buffer(buffer, direction) => buffer.submit(*direction).map_err(Rejected::Buffer)?,
        // SAFETY: the segment is in the controller's own region, which only atomics access, and which is leaked unless the
        // adapter has been closed.
        Data::Own(segment, direction) => unsafe {
            DmaSegments::new(core::slice::from_ref(segment), *direction)
        },
        Data::Unmap { lba, blocks } => {
            list = [write_list(lists.as_ref().ok_or(Fault::Timeout)?, at, *lba, *blocks)
                .ok_or(Rejected::Invalid)?];
            // SAFETY: the list is in the lane's own region, which only atomics access, and which is leaked unless the adapter has
            // been closed; this slot's part of it is written again only for the slot's next command.
            unsafe { DmaSegments::new(&list, Direction::ToDevice) }
        }
        Data::None | Data::Held(_) => DmaSegments::EMPTY,
    };
    let segments = memory.as_slice();
    let len = match segments {
        [one] => one.len,
        all => all.iter().fold(0u32, |sum, segment| sum.wrapping_add(segment.len)),
    };
    let sent = match make.make(segments, cdb) {
        Ok(count) => {
            *to_transfer = count;
            port.send(id, &Command { address: *address, cdb, memory, len })
        }
        Err(reason) => Err(reason),
    };
    if sent.is_err()
        && let Data::Buffer(buffer, _) = data
    {
        // SAFETY: it was lent just now, and the host was not told of it.
        unsafe { buffer.reclaim() };
    }
    sent
}

/// Writes the parameter list of an UNMAP to the memory of slot `at`; where that is.
#[cold]
fn write_list<P: Platform>(lists: &DmaRegion<P>, at: u16, lba: u64, blocks: u32) -> Option<Segment> {
    let offset = usize::from(at).wrapping_mul(LIST_STRIDE);
    let list = lists.shared().at::<[AtomicU64; 3]>(offset)?;
    let words = unmap_list(lba, blocks);
    list.iter().zip(words).for_each(|(to, word)| to.store(word, Ordering::Relaxed));
    let addr = BusAddr(lists.bus().0.wrapping_add(offset as u64));
    Some(Segment { addr, len: size_of_val(&words) as u32 })
}
