//! A queue of the device: one channel, both ways.

use crate::channel::{QUEUE, QueueState};
use crate::host_state::Closed;
use crate::receive::{MAX_RECEIVED, RxState};
use crate::send::{Reservation, TxState};
use crate::shared::NetShared;
use core::{fmt, task::Waker};
use paravirt_device::{
    Arm, Fault, NetQueue, NetRx, NetTx, Notify, Rejected, RxFrame, SendRefused, Sent, TxMeta,
};
use paravirt_platform::{AllocError, DmaBuffer, Instant, PageArc, PageBox, PageTable, Platform};

/// The receiving half of a queue: frames stay where the host put them in the receive buffer until they are looked at, and are
/// copied out then, once.
///
/// It takes no lock and makes no call to the host.
pub struct NetVscRx<P: Platform, B: DmaBuffer> {
    /// `None` only while the queue is being dropped.
    state: Option<PageBox<P, RxState<P>>>,
    /// The copy of the oldest frame.
    frame: PageTable<P, u8>,
    /// How many fragments of it have been copied, and where they end in `frame`.
    copied: u16,
    filled: usize,
    /// Where in `frame` the fragment lies that was copied last.
    last: (usize, usize),
    shared: PageArc<P, NetShared<P, B>>,
}

/// The sending half of a queue.
///
/// Reserving and committing a frame takes no lock, except where the frame has metadata ([`TxMeta`]) or lies in a bounce slot. Full
/// sections are collected, and written to the ring by the next kick.
pub struct NetVscTx<P: Platform, B: DmaBuffer> {
    /// `None` only while the queue is being dropped.
    state: Option<PageBox<P, TxState<P, B>>>,
    /// The channel's index.
    index: usize,
    shared: PageArc<P, NetShared<P, B>>,
}

/// A queue of a device, which owns the state of a channel: see the crate's documentation.
///
/// Dropped, it gives the state back to the device. Frames of callers that are in flight then are kept until the host has
/// completed them, and are dropped.
pub struct NetVscQueue<P: Platform, B: DmaBuffer> {
    rx: NetVscRx<P, B>,
    tx: NetVscTx<P, B>,
}

impl<P: Platform, B: DmaBuffer> NetVscQueue<P, B> {
    /// Takes the state of channel `index` from `shared`; `None` where another queue has it, or there is no such channel.
    pub(crate) fn take(
        shared: &PageArc<P, NetShared<P, B>>,
        index: usize,
    ) -> Result<Option<Self>, AllocError> {
        let frame = PageTable::new(&shared.host.platform, MAX_RECEIVED, |_| 0)?;
        let state = shared.channel(index).and_then(|channel| channel.lock().idle.take());
        let Some(QueueState { rx, tx }) = state else { return Ok(None) };
        let shared = shared.clone();
        let rx =
            NetVscRx { state: Some(rx), frame, copied: 0, filled: 0, last: (0, 0), shared: shared.clone() };
        Ok(Some(Self { rx, tx: NetVscTx { state: Some(tx), index, shared } }))
    }

    /// Ends the sending state once the channels are closed: callers' frames are reclaimed.
    #[cold]
    fn end_if_closed(&mut self) {
        let closed = self.tx.shared.host.closed();
        if let Some(state) = &mut self.tx.state {
            if closed != Closed::No {
                state.end(closed == Closed::Quiesced);
            }
        }
    }
}

impl<P: Platform, B: DmaBuffer> Notify for NetVscQueue<P, B> {
    fn arm(&mut self) -> Arm {
        let (Some(rx), Some(tx)) = (&mut self.rx.state, &mut self.tx.state) else { return Arm::Armed };
        if rx.front().is_some() || tx.has_sent() {
            return Arm::Pending;
        }
        tx.arm_watchdog(|| self.tx.shared.host.platform.now());
        self.tx.shared.channel(self.tx.index).map_or(Arm::Armed, |channel| channel.lock().arm(rx, tx))
    }

    fn disarm(&mut self) {
        if let Some(channel) = self.tx.shared.channel(self.tx.index) {
            if let Some(channel) = &mut channel.lock().channel {
                channel.disarm();
            }
        }
    }

    fn register(&mut self, waker: &Waker) {
        if let Some(channel) = self.tx.shared.channel(self.tx.index) {
            channel.lock().wakers.register(QUEUE, waker);
        }
    }

    fn next_deadline(&self) -> Instant {
        self.tx.state.as_ref().map_or(Instant::NEVER, |tx| tx.deadline())
    }

    fn expire(&mut self, now: Instant) -> Result<(), Fault> {
        if !self.tx.state.as_mut().is_some_and(|tx| tx.is_stalled(now)) {
            return Ok(());
        }
        log::warn!("netvsc: the host completes no sent frame: the card is closed");
        self.reset()
    }
}

impl<P: Platform, B: DmaBuffer> NetQueue for NetVscQueue<P, B> {
    type Rx = NetVscRx<P, B>;
    type Tx = NetVscTx<P, B>;

    #[inline]
    fn poll(&mut self) -> Result<(), Fault> {
        let (Some(rx), Some(tx)) = (&mut self.rx.state, &mut self.tx.state) else {
            return Err(Fault::Removed);
        };
        let polled = self.tx.shared.pump_queue(self.tx.index, rx, tx);
        if polled.is_err() {
            self.end_if_closed();
        }
        polled
    }

    fn split(&mut self) -> (&mut NetVscRx<P, B>, &mut NetVscTx<P, B>) {
        (&mut self.rx, &mut self.tx)
    }

    fn tx(&self) -> &NetVscTx<P, B> {
        &self.tx
    }

    fn reset(&mut self) -> Result<(), Fault> {
        let fault = self.tx.shared.fail(Fault::Timeout);
        self.end_if_closed();
        Err(fault)
    }
}

impl<P: Platform, B: DmaBuffer> Drop for NetVscQueue<P, B> {
    fn drop(&mut self) {
        let shared = &self.tx.shared;
        let (Some(rx), Some(tx)) = (self.rx.state.take(), self.tx.state.take()) else { return };
        if let Some(channel) = shared.channel(self.tx.index) {
            let parked = channel.lock().park(QueueState { rx, tx }, &shared.host);
            if let Err(fault) = parked {
                shared.fail(fault);
            }
        }
    }
}

impl<P: Platform, B: DmaBuffer> NetVscRx<P, B> {
    /// Copies the next fragment of the oldest frame behind those that were copied.
    #[inline(always)]
    fn copy_next(&mut self) -> Option<()> {
        let fragment = *self.state.as_ref()?.fragment(self.copied)?;
        let end = self.filled.checked_add(fragment.len as usize)?;
        let into = self.frame.get_mut(self.filled..end)?;
        self.shared.received()?.copy_out(fragment.offset as usize, into)?;
        self.last = (self.filled, end);
        self.filled = end;
        self.copied = self.copied.wrapping_add(1);
        Some(())
    }

    /// Where in the copy fragment `index` lies, which was copied before the last one.
    #[cold]
    fn range(&self, index: u16) -> Option<(usize, usize)> {
        let state = self.state.as_ref()?;
        let len = |at: u16| state.fragment(at).map(|fragment| fragment.len as usize);
        let mut start = 0usize;
        for at in 0..index {
            start = start.checked_add(len(at)?)?;
        }
        Some((start, start.checked_add(len(index)?)?))
    }
}

impl<P: Platform, B: DmaBuffer> NetRx for NetVscRx<P, B> {
    #[inline]
    fn front(&self) -> Option<RxFrame> {
        self.state.as_ref()?.describe()
    }

    #[inline]
    fn segment(&mut self, index: u16) -> Option<&mut [u8]> {
        // In order, each once.
        while self.copied <= index {
            self.copy_next()?;
        }
        let (start, end) = if self.copied == index.wrapping_add(1) { self.last } else { self.range(index)? };
        self.frame.get_mut(start..end)
    }

    #[inline]
    fn pop(&mut self) {
        (self.copied, self.filled) = (0, 0);
        if let Some(state) = &mut self.state {
            state.pop();
        }
    }
}

impl<P: Platform, B: DmaBuffer> NetVscTx<P, B> {
    /// The reason why nothing can be sent where the channel is closed.
    #[cold]
    fn fault(&self) -> Fault {
        self.shared.host.fault().unwrap_or(Fault::Removed)
    }

    /// Flushes the open section, then reserves again.
    #[inline(never)]
    fn flush_and_reserve(&mut self, len: usize) -> bool {
        let (Some(state), Some(channel)) = (&mut self.state, self.shared.channel(self.index)) else {
            return false;
        };
        let mut channel = channel.lock();
        let Some(channel) = &mut channel.channel else { return false };
        // A fault shows at the next poll.
        state.flush(channel).is_ok() && state.reserve(len) == Reservation::Ready
    }

    #[inline(never)]
    fn commit_with_channel(&mut self, len: usize, meta: TxMeta) -> Result<(), Rejected> {
        let (Some(state), Some(channel)) = (&mut self.state, self.shared.channel(self.index)) else {
            return Err(Rejected::Invalid);
        };
        let mut channel = channel.lock();
        match &mut channel.channel {
            Some(channel) => state.commit_with(len, &meta, channel),
            None => Err(self.fault().into()),
        }
    }
}

impl<P: Platform, B: DmaBuffer> NetTx for NetVscTx<P, B> {
    type Buffer = B;

    #[inline]
    fn is_ready(&self, len: usize) -> bool {
        self.state.as_ref().is_some_and(|state| state.is_ready(len))
    }

    #[inline]
    fn reserve(&mut self, len: usize) -> bool {
        match self.state.as_mut().map(|state| state.reserve(len)) {
            Some(Reservation::Ready) => true,
            Some(Reservation::NeedsFlush) => self.flush_and_reserve(len),
            _ => false,
        }
    }

    #[inline]
    fn slot(&mut self) -> &mut [u8] {
        self.state.as_mut().map_or(&mut [], |state| state.slot())
    }

    #[inline]
    fn commit(&mut self, len: usize, meta: TxMeta) -> Result<(), Rejected> {
        if let Some(state) = &mut self.state {
            if state.commit_plain(len, &meta).is_some() {
                return Ok(());
            }
        }
        self.commit_with_channel(len, meta)
    }

    fn send(&mut self, tag: u64, frame: B, meta: TxMeta) -> Result<(), SendRefused<B>> {
        let refused = |reason, buffer| Err(SendRefused::new(reason, buffer));
        let (Some(state), Some(channel)) = (&mut self.state, self.shared.channel(self.index)) else {
            return refused(Rejected::Invalid, frame);
        };
        let mut channel = channel.lock();
        match &mut channel.channel {
            Some(channel) => {
                state.send(tag, frame, &meta, channel).or_else(|(reason, buffer)| refused(reason, buffer))
            }
            None => refused(self.fault().into(), frame),
        }
    }

    fn sent(&mut self) -> Option<Sent<B>> {
        self.state.as_mut()?.take_sent()
    }

    #[inline]
    fn kick(&mut self) {
        if let (Some(state), Some(channel)) = (&mut self.state, self.shared.channel(self.index)) {
            // A fault shows at the next poll.
            let _ = channel.lock().send_committed(state);
        }
    }
}

impl<P: Platform, B: DmaBuffer> fmt::Debug for NetVscRx<P, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetVscRx").field("state", &self.state.as_deref()).finish_non_exhaustive()
    }
}

impl<P: Platform, B: DmaBuffer> fmt::Debug for NetVscTx<P, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetVscTx").field("index", &self.index).field("state", &self.state.as_deref()).finish()
    }
}

impl<P: Platform, B: DmaBuffer> fmt::Debug for NetVscQueue<P, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetVscQueue").field("rx", &self.rx).field("tx", &self.tx).finish()
    }
}
