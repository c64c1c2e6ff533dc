//! Transaction ids: which request the completion of a packet belongs to.
//!
//! An id carries a generation beside the index, so that a completion which the host repeats, or sends for an earlier use of the
//! same entry, is not accepted.

/// Set in the ids of packets that the device sends for itself; such an id is this bit and one of the two below.
pub(crate) const CONTROL: u64 = 1 << 63;
/// A request of the device.
pub(crate) const REQUEST: u64 = 1;
/// The answer to a keep-alive of the host.
pub(crate) const KEEP_ALIVE: u64 = 2;

const SECTION: u64 = 1 << 48;
const LSO: u64 = 2 << 48;
const CALLER: u64 = 3 << 48;
const KIND: u64 = 3 << 48;

/// Where the frame of a packet lies.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum Source {
    /// A section of the send buffer, by its index within the queue's part.
    Section(u16),
    /// An LSO bounce slot.
    Lso(u16),
    /// Memory of the caller.
    Caller(u16),
}

/// The id of a packet whose frame lies in `source`.
pub(crate) const fn pack(source: Source, generation: u32) -> u64 {
    let (kind, index) = match source {
        Source::Section(index) => (SECTION, index),
        Source::Lso(index) => (LSO, index),
        Source::Caller(index) => (CALLER, index),
    };
    kind | (generation as u64) << 16 | index as u64
}

/// The source and the generation of an id; `None` for an id that [`pack`] does not make.
pub(crate) const fn unpack(id: u64) -> Option<(Source, u32)> {
    let (index, generation) = (id as u16, (id >> 16) as u32);
    match id & KIND {
        SECTION => Some((Source::Section(index), generation)),
        LSO => Some((Source::Lso(index), generation)),
        CALLER => Some((Source::Caller(index), generation)),
        _ => None,
    }
}
