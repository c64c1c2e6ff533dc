//! The host's ends of a channel's rings. They share no code with the guest's ends, so that they test them independently.
//!
//! Positions count bytes since the channel was opened and do not wrap; an index in the ring is a position modulo the size. The
//! guest's indices and packets are not trusted: malformed ones are a [`HostRingError`].
//!
//! Source: the rings of OpenVMM (MIT) and FreeBSD (BSD).

use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// Indices of 4-byte words in the control page.
const WRITE_INDEX: usize = 0;
const READ_INDEX: usize = 1;
const INTERRUPT_MASK: usize = 2;
const PENDING_SEND_SIZE: usize = 3;

/// The lengths in bytes of the packet descriptor, and of the footer after the payload.
const DESCRIPTOR: u64 = 16;
const FOOTER: u64 = 8;
/// Packet flag: the sender requests a completion.
const WANTS_COMPLETION: u16 = 1;

/// The memory of one ring, which the guest may write at any time.
pub trait HostRingMemory {
    /// The first 128 bytes of the control page.
    fn control(&self) -> &[AtomicU32; 32];
    /// The data pages.
    fn data(&self) -> &[AtomicU64];
}

impl HostRingMemory for (&[AtomicU32; 32], &[AtomicU64]) {
    fn control(&self) -> &[AtomicU32; 32] {
        self.0
    }
    fn data(&self) -> &[AtomicU64] {
        self.1
    }
}

/// Why the host could not read or write a packet.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum HostRingError {
    /// The memory is too small or too large for a ring.
    Size,
    /// The ring is full. Nothing was written.
    Full,
    /// The packet is longer than the ring, or than a descriptor can express. Nothing was written.
    TooLong,
    /// The guest wrote an index that is unaligned, out of range, or beyond the other index.
    Index(u32),
    /// The guest wrote a malformed packet descriptor, or one that contradicts the indices.
    Packet(u64),
}

impl fmt::Display for HostRingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size => f.write_str("invalid ring size"),
            Self::Full => f.write_str("the ring is full"),
            Self::TooLong => f.write_str("the packet is too long for the ring"),
            Self::Index(index) => write!(f, "index {index:#x} is out of range"),
            Self::Packet(word) => write!(f, "malformed packet descriptor {word:#018x}"),
        }
    }
}

impl std::error::Error for HostRingError {}

/// The type of a packet.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct PacketKind(pub u16);

impl PacketKind {
    /// Payload only.
    pub const IN_BAND: Self = Self(6);
    /// Payload and ranges of a shared buffer.
    pub const TRANSFER_PAGES: Self = Self(7);
    /// Payload and ranges of guest memory.
    pub const GPA_DIRECT: Self = Self(9);
    /// The completion of a packet that requested one.
    pub const COMPLETION: Self = Self(11);
}

/// A packet of the guest, copied out of the ring.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct HostPacket<'a> {
    /// The type, which may be unknown.
    pub kind: PacketKind,
    /// Whether the guest requests a completion.
    pub wants_completion: bool,
    /// The transaction id, which the completion repeats.
    pub transaction: u64,
    /// The bytes between the descriptor and the payload.
    pub header: &'a [u8],
    /// The payload, with its padding to 8 bytes.
    pub payload: &'a [u8],
}

/// A range of guest memory that a packet names.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GuestRange {
    /// Length in bytes.
    pub len: u32,
    /// Offset of the first byte in the first page, below 4096.
    pub offset: u32,
    /// The frame numbers, of 4096 bytes each.
    pub frames: Vec<u64>,
}

/// A range of a shared buffer.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct BufferRange {
    /// Length in bytes.
    pub len: u32,
    /// Offset from the start of the buffer, in bytes.
    pub offset: u32,
}

/// Removes a little-endian number of `N` bytes from the front of `bytes`.
fn number<const N: usize>(bytes: &mut &[u8]) -> Option<u64> {
    let (front, rest) = bytes.split_at_checked(N)?;
    *bytes = rest;
    Some(front.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

impl HostPacket<'_> {
    /// Returns the ranges of guest memory in the packet. `None` if the packet is of another type, has no range, or a range exceeds its
    /// header.
    pub fn gpa_ranges(&self) -> Option<Vec<GuestRange>> {
        let mut rest = self.header;
        let _reserved = number::<4>(&mut rest).filter(|_| self.kind == PacketKind::GPA_DIRECT)?;
        let count = number::<4>(&mut rest).filter(|count| *count > 0)?;
        let mut ranges = vec![];
        for _ in 0..count {
            let len = number::<4>(&mut rest)?;
            let offset = number::<4>(&mut rest).filter(|offset| *offset < 4096)?;
            let pages = (offset + len).div_ceil(4096);
            if pages * 8 > rest.len() as u64 {
                return None;
            }
            let frames = (0..pages).map(|_| number::<8>(&mut rest)).collect::<Option<_>>()?;
            ranges.push(GuestRange { len: len as u32, offset: offset as u32, frames });
        }
        Some(ranges)
    }
}

/// One ring and its size in bytes.
struct Shared<M> {
    memory: M,
    size: u64,
}

impl<M: HostRingMemory> Shared<M> {
    fn new(memory: M) -> Result<Self, HostRingError> {
        let size = memory.data().len() as u64 * 8;
        if !(64..=1 << 30).contains(&size) {
            return Err(HostRingError::Size);
        }
        Ok(Self { memory, size })
    }

    /// Returns the index of a position.
    fn index(&self, position: u64) -> u32 {
        (position % self.size) as u32
    }

    fn set(&self, word: usize, value: u32) {
        self.memory.control()[word].store(value, Ordering::SeqCst);
    }

    fn get(&self, word: usize) -> u32 {
        self.memory.control()[word].load(Ordering::SeqCst)
    }

    /// Converts an index that the guest wrote to a position: the first one at or after `from`. An error if it is more than `most` bytes
    /// after `from`.
    fn position(&self, word: usize, from: u64, most: u64) -> Result<u64, HostRingError> {
        let index = self.get(word);
        if index % 8 != 0 || u64::from(index) >= self.size {
            return Err(HostRingError::Index(index));
        }
        let further = (u64::from(index) + self.size - from % self.size) % self.size;
        if further > most { Err(HostRingError::Index(index)) } else { Ok(from + further) }
    }

    fn word(&self, position: u64) -> &AtomicU64 {
        &self.memory.data()[(position % self.size / 8) as usize]
    }
}

/// The receiving end: reads packets of the guest.
pub struct HostReader<M> {
    ring: Shared<M>,
    /// The position of the next packet, and the published read position.
    taken: u64,
    told: u64,
}

impl<M: HostRingMemory> HostReader<M> {
    /// The reading end of a ring that is empty.
    ///
    /// # Errors
    ///
    /// [`HostRingError::Size`].
    pub fn new(memory: M) -> Result<Self, HostRingError> {
        Ok(Self { ring: Shared::new(memory)?, taken: 0, told: 0 })
    }

    /// Returns the memory of the ring.
    pub fn memory(&self) -> &M {
        &self.ring.memory
    }

    /// Returns the position up to which the guest has written.
    fn written(&self) -> Result<u64, HostRingError> {
        let written = self.ring.position(WRITE_INDEX, self.told, self.ring.size)?;
        // Packets that were read and not released still occupy the ring.
        if written < self.taken { Err(HostRingError::Index(self.ring.index(written))) } else { Ok(written) }
    }

    /// Copies the next packet to `buffer`, replacing its content; returns `None` if the ring is drained.
    ///
    /// # Errors
    ///
    /// [`HostRingError::Index`] and [`HostRingError::Packet`]: the guest wrote a malformed index or packet. Nothing was read.
    pub fn next<'b>(&mut self, buffer: &'b mut Vec<u8>) -> Result<Option<HostPacket<'b>>, HostRingError> {
        let available = self.written()? - self.taken;
        if available == 0 {
            return Ok(None);
        }
        let first = self.ring.word(self.taken).load(Ordering::Relaxed);
        let field = |number: u32| (first >> (16 * number)) & 0xffff;
        let (start, end, flags) = (field(1) * 8, field(2) * 8, field(3) as u16);
        let is_sound = start >= DESCRIPTOR && end >= start && end + FOOTER <= available;
        if !is_sound || flags & !WANTS_COMPLETION != 0 {
            return Err(HostRingError::Packet(first));
        }
        let transaction = self.ring.word(self.taken + 8).load(Ordering::Relaxed);
        buffer.clear();
        for position in (self.taken + DESCRIPTOR..self.taken + end).step_by(8) {
            buffer.extend(self.ring.word(position).load(Ordering::Relaxed).to_le_bytes());
        }
        self.taken += end + FOOTER;
        let (header, payload) = buffer.split_at((start - DESCRIPTOR) as usize);
        let kind = PacketKind(field(0) as u16);
        Ok(Some(HostPacket { kind, wants_completion: flags != 0, transaction, header, payload }))
    }

    /// Masks signals of the guest.
    pub fn mask(&mut self) {
        self.ring.set(INTERRUPT_MASK, 1);
        fence(Ordering::SeqCst);
    }

    /// Unmasks signals of the guest. Returns true if a packet raced in: the guest may not have signalled it, so signals are masked again
    /// and the caller continues to read.
    pub fn unmask(&mut self) -> bool {
        self.ring.set(INTERRUPT_MASK, 0);
        fence(Ordering::SeqCst);
        let is_drained = self.ring.get(WRITE_INDEX) == self.ring.index(self.taken);
        if !is_drained {
            self.mask();
        }
        !is_drained
    }

    /// Publishes the read position; returns whether to signal the guest, since it waits for this room.
    pub fn release(&mut self) -> bool {
        let before = std::mem::replace(&mut self.told, self.taken);
        self.ring.set(READ_INDEX, self.ring.index(self.taken));
        fence(Ordering::SeqCst);
        let wanted = u64::from(self.ring.get(PENDING_SEND_SIZE)) / 8 * 8;
        let Ok(written) = self.ring.position(WRITE_INDEX, self.told, self.ring.size) else { return false };
        // Room is the free space without 8 bytes. If the index was moved back, the first sum is negative.
        let room = |read: u64| self.ring.size as i64 - (written - read) as i64 - 8;
        wanted > 0 && room(before) < wanted as i64 && wanted as i64 <= room(self.told)
    }
}

/// The sending end: writes packets to the guest.
pub struct HostWriter<M> {
    ring: Shared<M>,
    /// The position after the last packet, and the published write position.
    written: u64,
    told: u64,
    /// The last known position up to which the guest has read.
    read: u64,
}

impl<M: HostRingMemory> HostWriter<M> {
    /// The writing end of a ring that is empty.
    ///
    /// # Errors
    ///
    /// [`HostRingError::Size`].
    pub fn new(memory: M) -> Result<Self, HostRingError> {
        Ok(Self { ring: Shared::new(memory)?, written: 0, told: 0, read: 0 })
    }

    /// Returns the memory of the ring.
    pub fn memory(&self) -> &M {
        &self.ring.memory
    }

    /// Returns the length of a packet with `body` bytes of header and payload.
    fn packet_len(&self, body: usize) -> Result<u64, HostRingError> {
        let len = DESCRIPTOR + (body as u64).next_multiple_of(8) + FOOTER;
        let is_possible = (len - FOOTER) / 8 <= u64::from(u16::MAX) && len + 8 <= self.ring.size;
        if is_possible { Ok(len) } else { Err(HostRingError::TooLong) }
    }

    /// Returns whether `len` bytes can be written without making the ring look empty.
    fn has_room(&mut self, len: u64) -> Result<bool, HostRingError> {
        self.read = self.ring.position(READ_INDEX, self.read, self.told - self.read)?;
        Ok(self.written - self.read + len + 8 <= self.ring.size)
    }

    /// Writes a packet, whose header is a multiple of 8 bytes. The guest sees it after [`publish`](Self::publish).
    ///
    /// # Errors
    ///
    /// [`HostRingError::Full`], [`HostRingError::TooLong`], [`HostRingError::Index`]. Nothing was written.
    fn send(
        &mut self,
        kind: PacketKind,
        flags: u16,
        transaction: u64,
        header: &[u8],
        payload: &[u8],
    ) -> Result<(), HostRingError> {
        let len = self.packet_len(header.len() + payload.len())?;
        if !self.has_room(len)? {
            return Err(HostRingError::Full);
        }
        let start = (DESCRIPTOR + header.len() as u64) / 8;
        let first = u64::from(kind.0) | start << 16 | ((len - FOOTER) / 8) << 32 | u64::from(flags) << 48;
        let mut bytes = [&first.to_le_bytes()[..], &transaction.to_le_bytes(), header, payload].concat();
        bytes.resize((len - FOOTER) as usize, 0);
        // The footer has 4 reserved bytes and the index of the descriptor.
        bytes.extend((u64::from(self.ring.index(self.written)) << 32).to_le_bytes());
        for (position, word) in (self.written..).step_by(8).zip(bytes.chunks_exact(8)) {
            let word = u64::from_le_bytes(word.try_into().expect("eight bytes"));
            self.ring.word(position).store(word, Ordering::Relaxed);
        }
        self.written += len;
        Ok(())
    }

    /// Writes an in-band packet without a completion request.
    ///
    /// # Errors
    ///
    /// [`HostRingError::Full`], [`HostRingError::TooLong`], [`HostRingError::Index`]. Nothing was written.
    pub fn in_band(&mut self, transaction: u64, payload: &[u8]) -> Result<(), HostRingError> {
        self.send(PacketKind::IN_BAND, 0, transaction, &[], payload)
    }

    /// Writes an in-band packet with a completion request.
    ///
    /// # Errors
    ///
    /// [`HostRingError::Full`], [`HostRingError::TooLong`], [`HostRingError::Index`]. Nothing was written.
    pub fn request(&mut self, transaction: u64, payload: &[u8]) -> Result<(), HostRingError> {
        self.send(PacketKind::IN_BAND, WANTS_COMPLETION, transaction, &[], payload)
    }

    /// Writes the completion of a packet of the guest.
    ///
    /// # Errors
    ///
    /// [`HostRingError::Full`], [`HostRingError::TooLong`], [`HostRingError::Index`]. Nothing was written.
    pub fn completion(&mut self, transaction: u64, payload: &[u8]) -> Result<(), HostRingError> {
        self.send(PacketKind::COMPLETION, 0, transaction, &[], payload)
    }

    /// Writes a packet with ranges of the shared buffer `set` and a completion request.
    ///
    /// # Errors
    ///
    /// [`HostRingError::Full`], [`HostRingError::TooLong`], [`HostRingError::Index`]. Nothing was written.
    pub fn transfer_pages(
        &mut self,
        transaction: u64,
        set: u16,
        ranges: &[BufferRange],
        payload: &[u8],
    ) -> Result<(), HostRingError> {
        let mut header = vec![];
        header.extend(u32::from(set).to_le_bytes());
        header.extend((ranges.len() as u32).to_le_bytes());
        for range in ranges {
            header.extend(range.len.to_le_bytes());
            header.extend(range.offset.to_le_bytes());
        }
        self.send(PacketKind::TRANSFER_PAGES, WANTS_COMPLETION, transaction, &header, payload)
    }

    /// Publishes the write position; returns whether to signal the guest: the ring was empty, and signals are not masked.
    pub fn publish(&mut self) -> bool {
        if self.written == self.told {
            return false;
        }
        let before = std::mem::replace(&mut self.told, self.written);
        self.ring.set(WRITE_INDEX, self.ring.index(self.written));
        fence(Ordering::SeqCst);
        self.ring.get(INTERRUPT_MASK) == 0 && self.ring.get(READ_INDEX) == self.ring.index(before)
    }

    /// Requests a signal for when a packet with `body` bytes of header and payload fits. Returns true if it fits now; the request is then
    /// withdrawn.
    ///
    /// # Errors
    ///
    /// [`HostRingError::TooLong`], [`HostRingError::Index`].
    pub fn await_room(&mut self, body: usize) -> Result<bool, HostRingError> {
        let len = self.packet_len(body)?;
        self.ring.set(PENDING_SEND_SIZE, len as u32);
        fence(Ordering::SeqCst);
        let fits = self.has_room(len)?;
        if fits {
            self.stop_waiting();
        }
        Ok(fits)
    }

    /// Withdraws the request for a signal.
    pub fn stop_waiting(&mut self) {
        self.ring.set(PENDING_SEND_SIZE, 0);
    }
}
