//! A stream: where it stands, how much either side has room for, and what came in and was not read. It knows no queue.

use super::packet::{NO_RECEIVE, NO_SEND, Op, Packet};
use core::time::Duration;
use paravirt_device::{CloseReason, SocketState};
use paravirt_platform::{AllocError, Instant, PageTable, Platform};

/// Bytes of what came in and was not read.
pub(crate) const ROOM: u32 = 64 << 10;
const INDEX: usize = ROOM as usize - 1;
/// How long the host may take to answer.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum Phase {
    Connecting(Instant),
    Open,
    /// Nobody here has it any more; the host is to agree until then.
    Leaving(Instant),
    Closed(CloseReason),
}

/// What the host is to be told.
#[derive(Copy, Clone, Debug, Default)]
pub(crate) struct Owed {
    pub response: bool,
    pub credit: bool,
    pub credit_request: bool,
    /// [`NO_SEND`], and with [`NO_RECEIVE`] the end.
    pub shutdown: u32,
    pub reset: bool,
}

impl Owed {
    pub fn is_nothing(&self) -> bool {
        !(self.response || self.credit || self.credit_request || self.reset) && self.shutdown == 0
    }
}

pub(crate) struct Stream<P: Platform> {
    pub generation: u32,
    pub port: u32,
    pub peer: u32,
    pub phase: Phase,
    /// The host made it, and nobody has accepted it.
    pub is_waiting: bool,
    pub owed: Owed,
    /// The host sends no more; receives no more; was told that we send no more.
    is_ended: bool,
    is_deaf: bool,
    is_finished: bool,
    peer_room: u32,
    peer_consumed: u32,
    sent: u32,
    has_asked: bool,
    /// What came in, in a ring.
    bytes: PageTable<P, u8>,
    next: usize,
    len: usize,
    consumed: u32,
    told: u32,
}

impl<P: Platform> Stream<P> {
    pub fn new(
        platform: &P,
        generation: u32,
        port: u32,
        peer: u32,
        phase: Phase,
    ) -> Result<Self, AllocError> {
        Ok(Self {
            generation,
            port,
            peer,
            phase,
            is_waiting: false,
            owed: Owed::default(),
            is_ended: false,
            is_deaf: false,
            is_finished: false,
            peer_room: 0,
            peer_consumed: 0,
            sent: 0,
            has_asked: false,
            bytes: PageTable::new(platform, ROOM as usize, |_| 0)?,
            next: 0,
            len: 0,
            consumed: 0,
            told: 0,
        })
    }

    pub fn state(&self) -> Option<SocketState> {
        Some(match self.phase {
            Phase::Connecting(_) => SocketState::Connecting,
            Phase::Open => SocketState::Open { is_ended: self.is_ended && self.len == 0 },
            Phase::Closed(reason) => SocketState::Closed(reason),
            Phase::Leaving(_) => return None,
        })
    }

    /// Whether it is over, and the host knows.
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Closed(_)) && self.owed.is_nothing()
    }

    /// Whether the host takes more from this side.
    pub fn is_writable(&self) -> bool {
        self.phase == Phase::Open && !self.is_deaf && !self.is_finished
    }

    /// Bytes that may be sent now.
    pub fn may_send(&mut self) -> u32 {
        if !self.is_writable() {
            return 0;
        }
        let under_way = self.sent.wrapping_sub(self.peer_consumed);
        let room = self.peer_room.saturating_sub(under_way);
        if room == 0 && !self.has_asked {
            (self.has_asked, self.owed.credit_request) = (true, true);
        }
        room
    }

    /// `len` bytes are under way.
    pub fn has_sent(&mut self, len: u32) {
        self.sent = self.sent.wrapping_add(len);
    }

    /// The header of a packet with this stream's numbers.
    pub fn packet(&self, cid: u64, host: u64, op: Op, flags: u32, len: u32) -> Packet {
        Packet {
            from: cid,
            to: host,
            from_port: self.port,
            to_port: self.peer,
            len,
            kind: super::packet::STREAM,
            op,
            flags,
            room: ROOM,
            consumed: self.consumed,
        }
    }

    /// A packet with this stream's numbers has gone.
    pub fn has_told(&mut self) {
        (self.told, self.owed.credit) = (self.consumed, false);
    }

    /// Takes note of a packet of the host's.
    pub fn take(&mut self, packet: &Packet, data: &[u8]) {
        (self.peer_room, self.peer_consumed) = (packet.room, packet.consumed);
        // A host that has no room says so; it tells when it has.
        self.has_asked &= self.sent.wrapping_sub(self.peer_consumed) >= self.peer_room;
        match (packet.op, self.phase) {
            (Op::RESET, Phase::Connecting(_)) => self.phase = Phase::Closed(CloseReason::Refused),
            (Op::RESET, Phase::Open | Phase::Leaving(_)) => self.phase = Phase::Closed(CloseReason::Reset),
            (Op::RESPONSE, Phase::Connecting(_)) => self.phase = Phase::Open,
            (Op::DATA, Phase::Open) => self.put(data),
            (Op::CREDIT_REQUEST, Phase::Open) => self.owed.credit = true,
            (Op::SHUTDOWN, Phase::Open) => {
                self.is_deaf |= packet.flags & NO_RECEIVE != 0;
                self.is_ended |= packet.flags & NO_SEND != 0;
                if self.is_deaf && self.is_ended && self.len == 0 {
                    // The host is through with it, and waits for the answer.
                    self.end(CloseReason::Ended);
                }
            }
            (Op::SHUTDOWN, Phase::Leaving(_)) => {
                self.is_deaf |= packet.flags & NO_RECEIVE != 0;
                self.is_ended |= packet.flags & NO_SEND != 0;
                if self.is_deaf && self.is_ended {
                    self.end(CloseReason::Ended);
                }
            }
            (Op::CREDIT_UPDATE | Op::DATA | Op::CREDIT_REQUEST, _) => {}
            // What makes no sense in this place.
            (_, Phase::Closed(_)) => {}
            _ => self.end(CloseReason::Reset),
        }
    }

    /// Ends it from here.
    fn end(&mut self, reason: CloseReason) {
        self.phase = Phase::Closed(reason);
        self.owed = Owed { reset: true, ..Owed::default() };
    }

    fn put(&mut self, data: &[u8]) {
        let room = (ROOM as usize).saturating_sub(self.len);
        if data.len() > room || self.is_ended {
            // It was told how much room there is, or has said that it sends no more.
            return self.end(CloseReason::Reset);
        }
        let at = self.next.wrapping_add(self.len) & INDEX;
        let (now, later) = data.split_at_checked((ROOM as usize).wrapping_sub(at)).unwrap_or((data, &[]));
        let to = self.bytes.get_mut(at..).unwrap_or_default();
        to.iter_mut().zip(now).for_each(|(to, from)| *to = *from);
        self.bytes.iter_mut().zip(later).for_each(|(to, from)| *to = *from);
        self.len = self.len.saturating_add(data.len());
    }

    /// Copies what came in to `bytes`; how much.
    pub fn read(&mut self, bytes: &mut [u8]) -> usize {
        let count = bytes.len().min(self.len);
        let (first, rest) = self.bytes.split_at(self.next);
        let stored = rest.iter().chain(first);
        bytes.iter_mut().zip(stored.take(count)).for_each(|(to, from)| *to = *from);
        self.next = self.next.wrapping_add(count) & INDEX;
        self.len = self.len.saturating_sub(count);
        self.consumed = self.consumed.wrapping_add(count as u32);
        if self.phase == Phase::Open {
            // Not for every byte: when half of the room is new.
            self.owed.credit |= self.consumed.wrapping_sub(self.told) >= ROOM >> 1;
            if self.is_deaf && self.is_ended && self.len == 0 {
                self.end(CloseReason::Ended);
            }
        }
        count
    }

    /// We send no more.
    pub fn finish(&mut self) {
        // Behind what is sent once it is open.
        if self.phase == Phase::Open && !core::mem::replace(&mut self.is_finished, true) {
            self.owed.shutdown = NO_SEND;
        }
    }

    /// Nobody here has it any more; `false` where nothing remains to be done.
    pub fn leave(&mut self, now: Instant) -> bool {
        self.is_waiting = false;
        match self.phase {
            Phase::Open => {
                self.owed.shutdown = NO_SEND | NO_RECEIVE;
                self.phase = Phase::Leaving(now.saturating_add(TIMEOUT));
                true
            }
            Phase::Connecting(_) => {
                self.end(CloseReason::Reset);
                true
            }
            Phase::Leaving(_) => true,
            Phase::Closed(_) => !self.is_over(),
        }
    }

    /// Gives up what takes too long.
    pub fn expire(&mut self, now: Instant) {
        match self.phase {
            Phase::Connecting(end) if now >= end => self.end(CloseReason::TimedOut),
            Phase::Leaving(end) if now >= end => self.end(CloseReason::Reset),
            _ => {}
        }
    }

    pub fn deadline(&self) -> Instant {
        match self.phase {
            Phase::Connecting(end) | Phase::Leaving(end) => end,
            _ => Instant::NEVER,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::packet::STREAM;
    use super::*;
    use core::alloc::Layout;
    use core::num::NonZeroUsize;
    use core::ptr::NonNull;
    use paravirt_platform::{BusAddr, Platform, RawDma};
    use std::vec;

    /// Pages of the program's own.
    #[derive(Clone)]
    struct Heap;

    fn layout(pages: NonZeroUsize) -> Layout {
        Layout::from_size_align(pages.get() * 4096, 4096).expect("no more memory than there is")
    }

    // SAFETY: the pages are zeroed and nobody else's until they are freed.
    unsafe impl Platform for Heap {
        fn dma_alloc(&self, pages: NonZeroUsize) -> Result<RawDma, AllocError> {
            // SAFETY: the layout is not empty.
            let cpu = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout(pages)) }).ok_or(AllocError)?;
            Ok(RawDma { cpu, bus: BusAddr(cpu.as_ptr() as u64), pages })
        }
        unsafe fn dma_free(&self, region: RawDma) {
            // SAFETY: it was allocated so.
            unsafe { std::alloc::dealloc(region.cpu.as_ptr(), layout(region.pages)) }
        }
        fn now(&self) -> Instant {
            Instant::ZERO
        }
    }

    fn stream() -> Stream<Heap> {
        Stream::new(&Heap, 1, 5, 6, Phase::Open).expect("memory")
    }

    fn packet(op: Op, flags: u32, room: u32, consumed: u32) -> Packet {
        Packet { from: 2, to: 3, from_port: 6, to_port: 5, len: 0, kind: STREAM, op, flags, room, consumed }
    }

    #[test]
    fn no_more_is_sent_than_there_is_room_for() {
        let mut stream = stream();
        assert_eq!(stream.may_send(), 0);
        assert!(core::mem::take(&mut stream.owed.credit_request));
        // Asked once.
        assert_eq!((stream.may_send(), stream.owed.credit_request), (0, false));
        stream.take(&packet(Op::CREDIT_UPDATE, 0, 100, 0), &[]);
        assert_eq!(stream.may_send(), 100);
        stream.has_sent(70);
        assert_eq!(stream.may_send(), 30);
        stream.take(&packet(Op::CREDIT_UPDATE, 0, 100, 70), &[]);
        assert_eq!(stream.may_send(), 100);
        // One that says again that it has no room is not asked again, one that has had some is.
        stream.has_sent(100);
        assert!((stream.may_send(), core::mem::take(&mut stream.owed.credit_request)) == (0, true));
        stream.take(&packet(Op::CREDIT_UPDATE, 0, 100, 70), &[]);
        assert_eq!((stream.may_send(), stream.owed.credit_request), (0, false));
        stream.take(&packet(Op::CREDIT_UPDATE, 0, 100, 170), &[]);
        assert_eq!(stream.may_send(), 100);
        // A host that has consumed more than was sent gets nothing.
        stream.take(&packet(Op::CREDIT_UPDATE, 0, 100, 171), &[]);
        assert_eq!(stream.may_send(), 0);
    }

    #[test]
    fn what_comes_in_is_read_in_its_order_across_the_end() {
        let mut stream = stream();
        let all: vec::Vec<u8> = (0..ROOM as usize).map(|at| (at % 251) as u8).collect();
        let mut read = vec![0; ROOM as usize];
        for _ in 0..3 {
            stream.take(&packet(Op::DATA, 0, 0, 0), &all[..50_000]);
            assert_eq!(stream.read(&mut read), 50_000);
            assert_eq!(read[..50_000], all[..50_000]);
            assert!(stream.owed.credit);
            stream.has_told();
        }
        stream.take(&packet(Op::DATA, 0, 0, 0), &all);
        assert_eq!(stream.phase, Phase::Open);
        // One byte more than there is room for.
        stream.take(&packet(Op::DATA, 0, 0, 0), &[1]);
        assert_eq!((stream.phase, stream.owed.reset), (Phase::Closed(CloseReason::Reset), true));
        assert_eq!(stream.read(&mut read), ROOM as usize);
    }

    #[test]
    fn an_end_is_seen_behind_what_came_ahead_of_it() {
        let mut stream = stream();
        stream.take(&packet(Op::DATA, 0, 0, 0), &[7]);
        stream.take(&packet(Op::SHUTDOWN, NO_SEND, 0, 0), &[]);
        assert_eq!(stream.state(), Some(SocketState::Open { is_ended: false }));
        assert_eq!(stream.read(&mut [0; 4]), 1);
        assert_eq!(stream.state(), Some(SocketState::Open { is_ended: true }));
        // Data behind the end.
        stream.take(&packet(Op::DATA, 0, 0, 0), &[7]);
        assert_eq!(stream.state(), Some(SocketState::Closed(CloseReason::Reset)));
    }

    #[test]
    fn who_is_refused_or_waits_in_vain_is_told() {
        let mut refused = stream();
        refused.phase = Phase::Connecting(Instant::from_nanos(10));
        refused.take(&packet(Op::RESET, 0, 0, 0), &[]);
        assert_eq!(refused.state(), Some(SocketState::Closed(CloseReason::Refused)));
        assert!(!refused.leave(Instant::ZERO));
        let mut late = stream();
        late.phase = Phase::Connecting(Instant::from_nanos(10));
        late.expire(Instant::from_nanos(9));
        assert_eq!(late.state(), Some(SocketState::Connecting));
        late.expire(Instant::from_nanos(10));
        assert_eq!(late.state(), Some(SocketState::Closed(CloseReason::TimedOut)));
        assert!(late.owed.reset);
        let mut left = stream();
        assert!(left.leave(Instant::ZERO));
        assert_eq!((left.state(), left.owed.shutdown), (None, NO_SEND | NO_RECEIVE));
        // Both end it at once.
        left.take(&packet(Op::SHUTDOWN, NO_SEND, 0, 0), &[]);
        assert_eq!(left.state(), None);
        left.take(&packet(Op::SHUTDOWN, NO_RECEIVE, 0, 0), &[]);
        assert_eq!((left.phase, left.owed.reset), (Phase::Closed(CloseReason::Ended), true));
    }
}
