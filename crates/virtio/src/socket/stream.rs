//! The state machine of one stream: its phase, the credit of both sides and the receive buffer. It does not touch the queues.

use super::packet::{NO_RECEIVE, NO_SEND, Op, Packet, TYPE_STREAM};
use core::time::Duration;
use paravirt_device::{CloseReason, SocketState};
use paravirt_platform::{AllocError, Instant, PageTable, Platform};

/// Bytes of the receive buffer of a stream: a power of two.
pub(crate) const RECEIVE_BUFFER_LEN: u32 = 64 << 10;
/// Mask that wraps an index of the receive buffer.
const INDEX_MASK: usize = RECEIVE_BUFFER_LEN as usize - 1;
/// How long the host may take to answer a connection request or a shutdown.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);

/// The phase of a connection.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum Phase {
    /// A request was sent; it times out at the instant.
    Connecting(Instant),
    /// Data flow in both directions.
    Open,
    /// The caller has closed the socket; the host has until the instant to confirm.
    Closing(Instant),
    /// The connection is over.
    Closed(CloseReason),
}

/// Packets of a stream that are to be sent as soon as there is a buffer for them.
#[derive(Copy, Clone, Debug, Default)]
pub(crate) struct PendingPackets {
    /// [`Op::RESPONSE`].
    pub response: bool,
    /// [`Op::CREDIT_UPDATE`].
    pub credit_update: bool,
    /// [`Op::CREDIT_REQUEST`].
    pub credit_request: bool,
    /// Flags of an [`Op::SHUTDOWN`]: 0 for no packet, [`NO_SEND`], or both to close the connection.
    pub shutdown: u32,
    /// [`Op::RESET`].
    pub reset: bool,
}

impl PendingPackets {
    /// Whether no packet is to be sent.
    pub fn is_empty(&self) -> bool {
        !(self.response || self.credit_update || self.credit_request || self.reset) && self.shutdown == 0
    }
}

/// One stream.
pub(crate) struct Stream<P: Platform> {
    /// Generation of the socket's [`SocketId`](paravirt_device::SocketId); 0 once the caller has closed it.
    pub generation: u32,
    /// Port of the guest.
    pub port: u32,
    /// Port of the host.
    pub peer_port: u32,
    pub phase: Phase,
    /// The host requested the connection and the caller has not accepted it yet.
    pub is_waiting: bool,
    pub pending: PendingPackets,
    /// The host has announced that it sends no more.
    is_peer_send_closed: bool,
    /// The host has announced that it receives no more.
    is_peer_receive_closed: bool,
    /// The caller sends no more.
    is_send_closed: bool,
    /// `buf_alloc` of the host, in bytes.
    peer_buf_alloc: u32,
    /// `fwd_cnt` of the host: bytes modulo 2^32.
    peer_fwd_cnt: u32,
    /// Bytes sent, modulo 2^32.
    tx_cnt: u32,
    /// A credit request was sent, and the host has granted no credit since.
    is_credit_requested: bool,
    /// The receive buffer, a ring.
    bytes: PageTable<P, u8>,
    /// Index of the first unread byte.
    next: usize,
    /// Unread bytes.
    len: usize,
    /// Bytes that the caller has read, modulo 2^32.
    fwd_cnt: u32,
    /// `fwd_cnt` of the last packet that was sent.
    announced_fwd_cnt: u32,
}

impl<P: Platform> Stream<P> {
    /// A stream in `phase` with an empty receive buffer.
    ///
    /// # Errors
    ///
    /// [`AllocError`] if the platform has no memory for the receive buffer.
    pub fn new(
        platform: &P,
        generation: u32,
        port: u32,
        peer_port: u32,
        phase: Phase,
    ) -> Result<Self, AllocError> {
        Ok(Self {
            generation,
            port,
            peer_port,
            phase,
            is_waiting: false,
            pending: PendingPackets::default(),
            is_peer_send_closed: false,
            is_peer_receive_closed: false,
            is_send_closed: false,
            peer_buf_alloc: 0,
            peer_fwd_cnt: 0,
            tx_cnt: 0,
            is_credit_requested: false,
            bytes: PageTable::new(platform, RECEIVE_BUFFER_LEN as usize, |_| 0)?,
            next: 0,
            len: 0,
            fwd_cnt: 0,
            announced_fwd_cnt: 0,
        })
    }

    /// The state that the caller sees; `None` once it has closed the socket.
    pub fn state(&self) -> Option<SocketState> {
        Some(match self.phase {
            Phase::Connecting(_) => SocketState::Connecting,
            Phase::Open => SocketState::Open { is_ended: self.is_peer_send_closed && self.len == 0 },
            Phase::Closed(reason) => SocketState::Closed(reason),
            Phase::Closing(_) => return None,
        })
    }

    /// Whether the connection is closed and no packet about it is pending.
    pub fn is_done(&self) -> bool {
        matches!(self.phase, Phase::Closed(_)) && self.pending.is_empty()
    }

    /// Whether the caller may send data.
    pub fn is_writable(&self) -> bool {
        self.phase == Phase::Open && !self.is_peer_receive_closed && !self.is_send_closed
    }

    /// Bytes of data that the host's credit allows now. Without credit, schedules one credit request. VIRTIO 1.3 §5.10.6.3
    pub fn send_credit(&mut self) -> u32 {
        if !self.is_writable() {
            return 0;
        }
        let in_flight = self.tx_cnt.wrapping_sub(self.peer_fwd_cnt);
        let room = self.peer_buf_alloc.saturating_sub(in_flight);
        if room == 0 && !self.is_credit_requested {
            (self.is_credit_requested, self.pending.credit_request) = (true, true);
        }
        room
    }

    /// Counts `len` bytes of data that were sent.
    pub fn on_sent_data(&mut self, len: u32) {
        self.tx_cnt = self.tx_cnt.wrapping_add(len);
    }

    /// The header of a packet of this stream, with its credit.
    pub fn packet(&self, cid: u64, host: u64, op: Op, flags: u32, len: u32) -> Packet {
        Packet {
            src_cid: cid,
            dst_cid: host,
            src_port: self.port,
            dst_port: self.peer_port,
            len,
            kind: TYPE_STREAM,
            op,
            flags,
            buf_alloc: RECEIVE_BUFFER_LEN,
            fwd_cnt: self.fwd_cnt,
        }
    }

    /// Notes that a header with the current credit was sent: a pending credit update is then superfluous.
    pub fn on_sent_header(&mut self) {
        (self.announced_fwd_cnt, self.pending.credit_update) = (self.fwd_cnt, false);
    }

    /// Handles a packet from the host.
    pub fn on_packet(&mut self, packet: &Packet, data: &[u8]) {
        (self.peer_buf_alloc, self.peer_fwd_cnt) = (packet.buf_alloc, packet.fwd_cnt);
        // A request stays outstanding until the host grants credit.
        self.is_credit_requested &= self.tx_cnt.wrapping_sub(self.peer_fwd_cnt) >= self.peer_buf_alloc;
        match (packet.op, self.phase) {
            (Op::RESET, Phase::Connecting(_)) => self.phase = Phase::Closed(CloseReason::Refused),
            (Op::RESET, Phase::Open | Phase::Closing(_)) => self.phase = Phase::Closed(CloseReason::Reset),
            (Op::RESPONSE, Phase::Connecting(_)) => self.phase = Phase::Open,
            (Op::DATA, Phase::Open) => self.put(data),
            (Op::CREDIT_REQUEST, Phase::Open) => self.pending.credit_update = true,
            (Op::SHUTDOWN, Phase::Open) => {
                self.is_peer_receive_closed |= packet.flags & NO_RECEIVE != 0;
                self.is_peer_send_closed |= packet.flags & NO_SEND != 0;
                if self.is_peer_receive_closed && self.is_peer_send_closed && self.len == 0 {
                    // The host has closed both directions and waits for a reset.
                    self.reset(CloseReason::Ended);
                }
            }
            (Op::SHUTDOWN, Phase::Closing(_)) => {
                self.is_peer_receive_closed |= packet.flags & NO_RECEIVE != 0;
                self.is_peer_send_closed |= packet.flags & NO_SEND != 0;
                if self.is_peer_receive_closed && self.is_peer_send_closed {
                    self.reset(CloseReason::Ended);
                }
            }
            (Op::CREDIT_UPDATE | Op::DATA | Op::CREDIT_REQUEST, _) => {}
            // Late packets of a closed connection.
            (_, Phase::Closed(_)) => {}
            // Any other operation violates the protocol in this phase.
            _ => self.reset(CloseReason::Reset),
        }
    }

    /// Closes the connection and schedules a reset.
    fn reset(&mut self, reason: CloseReason) {
        self.phase = Phase::Closed(reason);
        self.pending = PendingPackets { reset: true, ..PendingPackets::default() };
    }

    /// Appends `data` to the receive buffer; data beyond the announced credit, or after the host's shutdown, reset the connection.
    fn put(&mut self, data: &[u8]) {
        let free = (RECEIVE_BUFFER_LEN as usize).saturating_sub(self.len);
        if data.len() > free || self.is_peer_send_closed {
            return self.reset(CloseReason::Reset);
        }
        let at = self.next.wrapping_add(self.len) & INDEX_MASK;
        let (now, later) =
            data.split_at_checked((RECEIVE_BUFFER_LEN as usize).wrapping_sub(at)).unwrap_or((data, &[]));
        let to = self.bytes.get_mut(at..).unwrap_or_default();
        to.iter_mut().zip(now).for_each(|(to, from)| *to = *from);
        self.bytes.iter_mut().zip(later).for_each(|(to, from)| *to = *from);
        self.len = self.len.saturating_add(data.len());
    }

    /// Moves received data to `bytes` and returns how many bytes that were.
    pub fn read(&mut self, bytes: &mut [u8]) -> usize {
        let count = bytes.len().min(self.len);
        let (first, rest) = self.bytes.split_at_checked(self.next).unwrap_or_default();
        let stored = rest.iter().chain(first);
        bytes.iter_mut().zip(stored.take(count)).for_each(|(to, from)| *to = *from);
        self.next = self.next.wrapping_add(count) & INDEX_MASK;
        self.len = self.len.saturating_sub(count);
        self.fwd_cnt = self.fwd_cnt.wrapping_add(count as u32);
        if self.phase == Phase::Open {
            // Announce credit once half of the buffer was read, not for each read.
            self.pending.credit_update |=
                self.fwd_cnt.wrapping_sub(self.announced_fwd_cnt) >= RECEIVE_BUFFER_LEN >> 1;
            if self.is_peer_receive_closed && self.is_peer_send_closed && self.len == 0 {
                self.reset(CloseReason::Ended);
            }
        }
        count
    }

    /// Closes the sending direction, after the data that were sent.
    pub fn finish(&mut self) {
        if self.phase == Phase::Open && !core::mem::replace(&mut self.is_send_closed, true) {
            self.pending.shutdown = NO_SEND;
        }
    }

    /// Closes the stream for the caller. Returns whether it has to be kept until the host has been notified.
    pub fn close(&mut self, now: Instant) -> bool {
        self.is_waiting = false;
        match self.phase {
            Phase::Open => {
                self.pending.shutdown = NO_SEND | NO_RECEIVE;
                self.phase = Phase::Closing(now.saturating_add(TIMEOUT));
                true
            }
            Phase::Connecting(_) => {
                self.reset(CloseReason::Reset);
                true
            }
            Phase::Closing(_) => true,
            Phase::Closed(_) => !self.is_done(),
        }
    }

    /// Resets a connection whose deadline has passed.
    pub fn expire(&mut self, now: Instant) {
        match self.phase {
            Phase::Connecting(end) if now >= end => self.reset(CloseReason::TimedOut),
            Phase::Closing(end) if now >= end => self.reset(CloseReason::Reset),
            _ => {}
        }
    }

    /// When [`expire`](Self::expire) has to be called; [`Instant::NEVER`] for no deadline.
    pub fn deadline(&self) -> Instant {
        match self.phase {
            Phase::Connecting(end) | Phase::Closing(end) => end,
            _ => Instant::NEVER,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::alloc::Layout;
    use core::num::NonZeroUsize;
    use core::ptr::NonNull;
    use paravirt_platform::{BusAddr, Platform, RawDma};
    use std::vec;

    /// A platform whose pages come from the heap.
    #[derive(Clone)]
    struct Heap;

    fn layout(pages: NonZeroUsize) -> Layout {
        Layout::from_size_align(pages.get() * 4096, 4096).expect("no more memory than there is")
    }

    // SAFETY: the pages are zeroed and used by nothing else until they are freed.
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

    fn packet(op: Op, flags: u32, buf_alloc: u32, fwd_cnt: u32) -> Packet {
        Packet {
            src_cid: 2,
            dst_cid: 3,
            src_port: 6,
            dst_port: 5,
            len: 0,
            kind: TYPE_STREAM,
            op,
            flags,
            buf_alloc,
            fwd_cnt,
        }
    }

    #[test]
    fn data_are_sent_within_the_hosts_credit() {
        let mut stream = stream();
        assert_eq!(stream.send_credit(), 0);
        assert!(core::mem::take(&mut stream.pending.credit_request));
        // One request is outstanding.
        assert_eq!((stream.send_credit(), stream.pending.credit_request), (0, false));
        stream.on_packet(&packet(Op::CREDIT_UPDATE, 0, 100, 0), &[]);
        assert_eq!(stream.send_credit(), 100);
        stream.on_sent_data(70);
        assert_eq!(stream.send_credit(), 30);
        stream.on_packet(&packet(Op::CREDIT_UPDATE, 0, 100, 70), &[]);
        assert_eq!(stream.send_credit(), 100);
        // An update without credit causes no second request; running out of granted credit does.
        stream.on_sent_data(100);
        assert!((stream.send_credit(), core::mem::take(&mut stream.pending.credit_request)) == (0, true));
        stream.on_packet(&packet(Op::CREDIT_UPDATE, 0, 100, 70), &[]);
        assert_eq!((stream.send_credit(), stream.pending.credit_request), (0, false));
        stream.on_packet(&packet(Op::CREDIT_UPDATE, 0, 100, 170), &[]);
        assert_eq!(stream.send_credit(), 100);
        // A host that claims to have consumed more than was sent grants no credit.
        stream.on_packet(&packet(Op::CREDIT_UPDATE, 0, 100, 171), &[]);
        assert_eq!(stream.send_credit(), 0);
    }

    #[test]
    fn received_data_are_read_in_order_across_the_wrap() {
        let mut stream = stream();
        let all: vec::Vec<u8> = (0..RECEIVE_BUFFER_LEN as usize).map(|at| (at % 251) as u8).collect();
        let mut read = vec![0; RECEIVE_BUFFER_LEN as usize];
        for _ in 0..3 {
            stream.on_packet(&packet(Op::DATA, 0, 0, 0), &all[..50_000]);
            assert_eq!(stream.read(&mut read), 50_000);
            assert_eq!(read[..50_000], all[..50_000]);
            assert!(stream.pending.credit_update);
            stream.on_sent_header();
        }
        stream.on_packet(&packet(Op::DATA, 0, 0, 0), &all);
        assert_eq!(stream.phase, Phase::Open);
        // One byte beyond the announced credit.
        stream.on_packet(&packet(Op::DATA, 0, 0, 0), &[1]);
        assert_eq!((stream.phase, stream.pending.reset), (Phase::Closed(CloseReason::Reset), true));
        assert_eq!(stream.read(&mut read), RECEIVE_BUFFER_LEN as usize);
    }

    #[test]
    fn a_shutdown_is_reported_after_the_data_before_it() {
        let mut stream = stream();
        stream.on_packet(&packet(Op::DATA, 0, 0, 0), &[7]);
        stream.on_packet(&packet(Op::SHUTDOWN, NO_SEND, 0, 0), &[]);
        assert_eq!(stream.state(), Some(SocketState::Open { is_ended: false }));
        assert_eq!(stream.read(&mut [0; 4]), 1);
        assert_eq!(stream.state(), Some(SocketState::Open { is_ended: true }));
        // Data after the shutdown.
        stream.on_packet(&packet(Op::DATA, 0, 0, 0), &[7]);
        assert_eq!(stream.state(), Some(SocketState::Closed(CloseReason::Reset)));
    }

    #[test]
    fn refused_timed_out_and_closed_streams_end() {
        let mut refused = stream();
        refused.phase = Phase::Connecting(Instant::from_nanos(10));
        refused.on_packet(&packet(Op::RESET, 0, 0, 0), &[]);
        assert_eq!(refused.state(), Some(SocketState::Closed(CloseReason::Refused)));
        assert!(!refused.close(Instant::ZERO));
        let mut late = stream();
        late.phase = Phase::Connecting(Instant::from_nanos(10));
        late.expire(Instant::from_nanos(9));
        assert_eq!(late.state(), Some(SocketState::Connecting));
        late.expire(Instant::from_nanos(10));
        assert_eq!(late.state(), Some(SocketState::Closed(CloseReason::TimedOut)));
        assert!(late.pending.reset);
        let mut left = stream();
        assert!(left.close(Instant::ZERO));
        assert_eq!((left.state(), left.pending.shutdown), (None, NO_SEND | NO_RECEIVE));
        // The host closes its directions one after the other.
        left.on_packet(&packet(Op::SHUTDOWN, NO_SEND, 0, 0), &[]);
        assert_eq!(left.state(), None);
        left.on_packet(&packet(Op::SHUTDOWN, NO_RECEIVE, 0, 0), &[]);
        assert_eq!((left.phase, left.pending.reset), (Phase::Closed(CloseReason::Ended), true));
    }
}
