//! A queue of the device: one channel, both ways.

use crate::core::Core;
use crate::lane::{DEVICE, QUEUE};
use crate::receive::MAX_RECEIVED;
use core::ptr::NonNull;
use core::task::Waker;
use paravirt_device::{
    Arm, Fault, NetQueue, NetRx, NetTx, Notify, Rejected, RxChecksum, RxFrame, RxMeta, SendRefused, Sent,
    TxMeta, VlanTag,
};
use paravirt_platform::{AllocError, DmaBuffer, PageArc, PageTable, Platform};

/// The receiving side of a queue: frames stay where the host has put them until they are looked at, and are copied then, once.
pub struct NetVscRx<P: Platform, B: DmaBuffer> {
    core: PageArc<P, Core<P, B>>,
    index: usize,
    /// The frame that was looked at.
    frame: PageTable<P, u8>,
    /// How many of its parts have been copied, and where they end.
    copied: u16,
    filled: usize,
    /// Where the part ends that was copied last, and where it begins.
    last: (usize, usize),
}

/// The sending side of a queue.
pub struct NetVscTx<P: Platform, B: DmaBuffer> {
    core: PageArc<P, Core<P, B>>,
    index: usize,
    /// The slot that is reserved.
    slot: Option<(NonNull<u8>, usize)>,
}

// SAFETY: the slot is this queue's own, in memory that the core keeps.
unsafe impl<P: Platform, B: DmaBuffer> Send for NetVscTx<P, B> {}

/// A queue of a device: a channel of it.
pub struct NetVscQueue<P: Platform, B: DmaBuffer> {
    rx: NetVscRx<P, B>,
    tx: NetVscTx<P, B>,
}

impl<P: Platform, B: DmaBuffer> NetVscQueue<P, B> {
    pub(crate) fn new(core: &PageArc<P, Core<P, B>>, index: usize) -> Result<Self, AllocError> {
        let frame = PageTable::new(&core.shared.platform, MAX_RECEIVED, |_| 0)?;
        let rx = NetVscRx { core: core.clone(), index, frame, copied: 0, filled: 0, last: (0, 0) };
        Ok(Self { rx, tx: NetVscTx { core: core.clone(), index, slot: None } })
    }
}

impl<P: Platform, B: DmaBuffer> Notify for NetVscQueue<P, B> {
    fn arm(&mut self) -> Arm {
        let NetVscRx { core, index, .. } = &self.rx;
        let Some(lane) = core.lane(*index) else { return Arm::Armed };
        let mut lane = lane.lock();
        if lane.received.front().is_some() || lane.sending.has_sent() {
            return Arm::Pending;
        }
        if lane.kick().is_err() || lane.has_found_room() {
            return Arm::Pending;
        }
        // Once out of service, nothing comes any more.
        lane.channel.as_mut().map_or(Arm::Armed, paravirt_vmbus::Channel::arm)
    }

    fn disarm(&mut self) {
        if let Some(lane) = self.rx.core.lane(self.rx.index)
            && let Some(channel) = &mut lane.lock().channel
        {
            channel.disarm();
        }
    }

    fn register(&mut self, waker: &Waker) {
        if let Some(lane) = self.rx.core.lane(self.rx.index) {
            lane.lock().wakers.register(QUEUE, waker);
        }
    }
}

impl<P: Platform, B: DmaBuffer> NetQueue for NetVscQueue<P, B> {
    type Rx = NetVscRx<P, B>;
    type Tx = NetVscTx<P, B>;

    #[inline]
    fn poll(&mut self) -> Result<(), Fault> {
        self.rx.core.pump(self.rx.index)
    }

    fn split(&mut self) -> (&mut NetVscRx<P, B>, &mut NetVscTx<P, B>) {
        (&mut self.rx, &mut self.tx)
    }
}

impl<P: Platform, B: DmaBuffer> Drop for NetVscQueue<P, B> {
    fn drop(&mut self) {
        if let Some(lane) = self.rx.core.lane(self.rx.index) {
            let mut lane = lane.lock();
            lane.is_taken = false;
            while lane.received.front().is_some() {
                lane.received.pop();
            }
            while lane.sending.take_sent().is_some() {}
            let _ = lane.kick();
            // Who has the device looks after the channel from here on.
            lane.wakers.wake(DEVICE);
        }
    }
}

impl<P: Platform, B: DmaBuffer> NetVscRx<P, B> {
    /// Copies part `index` of the frame behind those that have been copied; where it is then.
    fn copy(&mut self, index: u16) -> Option<(usize, usize)> {
        let part = *self.core.lane(self.index)?.lock().frames().get(usize::from(index))?;
        let end = self.filled.checked_add(part.len as usize)?;
        let into = self.frame.get_mut(self.filled..end)?;
        self.core.received()?.copy_out(part.offset as usize, into)?;
        self.last = (self.filled, end);
        self.filled = end;
        self.copied = self.copied.saturating_add(1);
        Some(self.last)
    }
}

impl<P: Platform, B: DmaBuffer> NetRx for NetVscRx<P, B> {
    #[inline]
    fn front(&self) -> Option<RxFrame> {
        let lane = self.core.lane(self.index)?.lock();
        let frame = lane.received.front()?;
        let checksum = if frame.is_verified { RxChecksum::Valid } else { RxChecksum::Unknown };
        let mut meta = RxMeta::new(checksum);
        meta.segmentation = frame.segmentation;
        meta.vlan = frame.tag.map(VlanTag);
        Some(RxFrame { len: frame.total as usize, segments: frame.parts, meta })
    }

    #[inline]
    fn segment(&mut self, index: u16) -> Option<&mut [u8]> {
        let parts = self.core.lane(self.index)?.lock().received.front()?.parts;
        if index >= parts {
            return None;
        }
        // In their order, each once.
        while self.copied <= index {
            self.copy(self.copied)?;
        }
        let (start, end) = if self.copied == index.wrapping_add(1) { self.last } else { self.range(index)? };
        self.frame.get_mut(start..end)
    }

    #[inline]
    fn pop(&mut self) {
        (self.copied, self.filled, self.last) = (0, 0, (0, 0));
        if let Some(lane) = self.core.lane(self.index) {
            lane.lock().received.pop();
        }
    }
}

impl<P: Platform, B: DmaBuffer> NetVscRx<P, B> {
    /// Where a part that was copied is.
    #[cold]
    fn range(&self, index: u16) -> Option<(usize, usize)> {
        let lane = self.core.lane(self.index)?.lock();
        let len = |at: u16| lane.frames().get(usize::from(at)).map(|part| part.len as usize);
        let mut start = 0usize;
        for at in 0..index {
            start = start.checked_add(len(at)?)?;
        }
        Some((start, start.checked_add(len(index)?)?))
    }
}

impl<P: Platform, B: DmaBuffer> NetTx for NetVscTx<P, B> {
    type Buffer = B;

    #[inline]
    fn is_ready(&self, len: usize) -> bool {
        let Some(lane) = self.core.lane(self.index) else { return false };
        let lane = lane.lock();
        lane.channel.is_some() && lane.sending.is_ready(len)
    }

    #[inline]
    fn reserve(&mut self, len: usize) -> bool {
        let Some(lane) = self.core.lane(self.index) else { return false };
        let lane = &mut *lane.lock();
        let Some(channel) = &mut lane.channel else { return false };
        // A fault shows at the next poll.
        self.slot = lane.sending.reserve(len, channel).ok().flatten();
        self.slot.is_some()
    }

    #[inline]
    fn slot(&mut self) -> &mut [u8] {
        match self.slot {
            // SAFETY: `reserve` found that much room for this queue alone, in memory that the core keeps, and that the host
            // is not told of before it is committed.
            Some((slot, len)) => unsafe { core::slice::from_raw_parts_mut(slot.as_ptr(), len) },
            None => &mut [],
        }
    }

    #[inline]
    fn commit(&mut self, len: usize, meta: TxMeta) -> Result<(), Rejected> {
        let (slot, room) = self.slot.take().ok_or(Rejected::Full)?;
        let lane = self.core.lane(self.index).ok_or(Rejected::Invalid)?;
        let lane = &mut *lane.lock();
        let Some(channel) = &mut lane.channel else {
            return Err(self.core.shared.fault().unwrap_or(Fault::Removed).into());
        };
        // SAFETY: as in `slot`.
        let frame = unsafe { core::slice::from_raw_parts_mut(slot.as_ptr(), room) };
        lane.sending.commit(len, &meta, frame, channel)
    }

    fn send(&mut self, tag: u64, frame: B, meta: TxMeta) -> Result<(), SendRefused<B>> {
        let refused = |reason, buffer| Err(SendRefused { reason, buffer });
        let Some(lane) = self.core.lane(self.index) else { return refused(Rejected::Invalid, frame) };
        let lane = &mut *lane.lock();
        let Some(channel) = &mut lane.channel else {
            return refused(self.core.shared.fault().unwrap_or(Fault::Removed).into(), frame);
        };
        // In their order.
        if let Err(fault) = lane.sending.flush(channel) {
            return refused(fault.into(), frame);
        }
        lane.sending.send(tag, frame, &meta, channel).or_else(|(reason, buffer)| refused(reason, buffer))
    }

    fn sent(&mut self) -> Option<Sent<B>> {
        self.core.lane(self.index)?.lock().sending.take_sent()
    }

    #[inline]
    fn kick(&mut self) {
        if let Some(lane) = self.core.lane(self.index) {
            // A fault shows at the next poll.
            let _ = lane.lock().kick();
        }
    }
}
