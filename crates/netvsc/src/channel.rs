//! A channel of the device, under its lock, and the state of its queue while no queue owns it.

use crate::backlog::Backlog;
use crate::completions::PendingCompletions;
use crate::host_state::{Closed, HostState};
use crate::pump::{MAX_PACKET, MAX_RANGES, PacketSink, pump};
use crate::receive::{Added, Fragment, RxState};
use crate::send::TxState;
use crate::transaction::CONTROL;
use crate::transmit_limits::nvsp_packet;
use hyperv_bindings::netvsp::{NVSP_NO_SECTION, NvspChannelType};
use paravirt_device::{Arm, Fault, Rejected};
use paravirt_platform::{AllocError, DmaBuffer, PageBox, PageTable, Platform, SharedMemory, WakerGroup};
use paravirt_vmbus::{Channel, GpaRange};
use spin::Mutex;
use zerocopy::IntoBytes;

/// The tasks that a channel wakes: that of its queue, and that of the device.
pub(crate) const QUEUE: usize = 0;
pub(crate) const DEVICE: usize = 1;
/// Bytes of the largest packet that waits for room in the ring: a completion, or an NVSP message.
const LARGEST_WAITING: usize = 40;

/// The state of a queue: a queue owns it while it is taken, and the channel while it is not.
pub(crate) struct QueueState<P: Platform, B: DmaBuffer> {
    pub rx: PageBox<P, RxState<P>>,
    pub tx: PageBox<P, TxState<P, B>>,
}

impl<P: Platform, B: DmaBuffer> QueueState<P, B> {
    pub fn new(platform: &P, frames: usize, tx: TxState<P, B>) -> Result<Self, AllocError> {
        let rx = PageBox::new(platform, RxState::new(platform, frames)?)?;
        Ok(Self { rx, tx: PageBox::new(platform, tx)? })
    }
}

/// Both halves of a queue's state, as the owner of what comes in.
struct QueueSink<'a, P: Platform, B: DmaBuffer> {
    rx: &'a mut RxState<P>,
    tx: &'a mut TxState<P, B>,
}

impl<P: Platform, B: DmaBuffer> PacketSink<P> for QueueSink<'_, P, B> {
    #[inline(always)]
    fn has_room(&self) -> bool {
        self.rx.has_room()
    }
    #[inline(always)]
    fn add_fragment(&mut self, fragment: Fragment) -> Added {
        self.rx.add_fragment(fragment)
    }
    #[inline(always)]
    fn add_packet(&mut self, transaction: u64, frames: u32) -> Result<(), Fault> {
        self.rx.add_packet(transaction, frames)
    }
    #[inline(always)]
    fn complete_send(&mut self, transaction: u64, is_success: bool) -> Result<(), Fault> {
        self.tx.complete(transaction, is_success)
    }
    fn completions(&mut self) -> &mut PendingCompletions<P> {
        &mut self.rx.completions
    }
}

pub(crate) struct ChannelState<P: Platform, B: DmaBuffer> {
    /// `None` before it is opened and after it is closed.
    pub channel: Option<Channel<P>>,
    /// Packets are copied here from the ring.
    buffer: PageTable<P, u8>,
    /// The state of the queue, while no queue owns it.
    pub idle: Option<QueueState<P, B>>,
    /// What the device took in while a queue owned it.
    backlog: Backlog<P>,
    pub wakers: WakerGroup<P>,
}

impl<P: Platform, B: DmaBuffer> ChannelState<P, B> {
    /// The state of a channel that is not open yet, behind its lock: each copy is much for a small stack.
    #[inline(never)]
    pub fn new(platform: &P, frames: usize, state: QueueState<P, B>) -> Result<Mutex<Self>, AllocError> {
        let buffer = PageTable::new(platform, MAX_PACKET, |_| 0)?;
        let backlog = Backlog::new(platform, frames, MAX_RANGES)?;
        let wakers = WakerGroup::new(platform, 2)?;
        Ok(Mutex::new(Self { channel: None, buffer, idle: Some(state), backlog, wakers }))
    }

    /// Takes the channel into service, which wakes its tasks from now on.
    pub fn set_channel(&mut self, channel: Channel<P>) {
        channel.register(&self.wakers.waker());
        self.channel = Some(channel);
    }

    /// Takes in everything that came for a queue, whose state is `rx` and `tx`, and writes what waits for room in the ring.
    #[inline]
    pub fn pump_queue(
        &mut self,
        rx: &mut RxState<P>,
        tx: &mut TxState<P, B>,
        host: &HostState<P>,
        memory: &SharedMemory,
    ) -> Result<(), Fault> {
        let Self { channel, buffer, backlog, wakers, .. } = self;
        let channel = channel.as_mut().ok_or(Fault::Removed)?;
        if !backlog.is_empty() {
            backlog.move_to(rx, tx)?;
        }
        let mut is_idle = false;
        // What came in first is handed out first.
        if backlog.is_empty() {
            is_idle = pump(channel, buffer, &mut QueueSink { rx, tx }, host, memory)?;
        }
        finish_round(channel, rx, tx, is_idle)?;
        if host.take_unannounced() {
            wakers.wake(DEVICE);
        }
        Ok(())
    }

    /// Takes in everything that came, for the device: to the state of the queue where no queue owns it, else to the backlog.
    pub fn pump_device(&mut self, host: &HostState<P>, memory: &SharedMemory) -> Result<(), Fault> {
        let Self { channel, buffer, idle, backlog, wakers } = self;
        let channel = channel.as_mut().ok_or(Fault::Removed)?;
        match idle {
            Some(QueueState { rx, tx }) => {
                let is_idle = pump(channel, buffer, &mut QueueSink { rx, tx }, host, memory)?;
                finish_round(channel, rx, tx, is_idle)?;
            }
            None => {
                pump(channel, buffer, backlog, host, memory)?;
                let completions = backlog.completions();
                completions.write_to(channel)?;
                if completions.take_signal(true) {
                    channel.kick();
                }
                if !backlog.is_empty() {
                    wakers.wake(QUEUE);
                }
            }
        }
        if host.take_unannounced() {
            wakers.wake(DEVICE);
        }
        Ok(())
    }

    /// Sends what a queue has committed, as far as the ring has room, and signals the host where it asks for that.
    #[inline]
    pub fn send_committed(&mut self, tx: &mut TxState<P, B>) -> Result<(), Fault> {
        let Some(channel) = &mut self.channel else { return Ok(()) };
        tx.flush(channel)?;
        channel.kick();
        Ok(())
    }

    /// Asks for an interrupt at the next packet, or once there is room for what waits for it.
    pub fn arm(&mut self, rx: &mut RxState<P>, tx: &mut TxState<P, B>) -> Arm {
        // Out of service, nothing comes any more.
        let Some(channel) = &mut self.channel else { return Arm::Armed };
        if !self.backlog.is_empty() || kick(channel, rx, tx).is_err() {
            return Arm::Pending;
        }
        let is_waiting = !rx.completions.is_empty() || tx.is_flush_pending();
        if is_waiting && !matches!(channel.await_room(LARGEST_WAITING), Ok(false)) {
            return Arm::Pending;
        }
        channel.arm()
    }

    /// Takes the state of a queue back, which was dropped; received frames are dropped with it, and so are frames of the caller
    /// that were sent. `closed` says whether the channels are closed by now: the state is ended then, else by [`end`](Self::end).
    pub fn park(&mut self, mut state: QueueState<P, B>, host: &HostState<P>) -> Result<(), Fault> {
        let QueueState { rx, tx } = &mut state;
        let mut moved = Ok(());
        while moved.is_ok() && !self.backlog.is_empty() {
            moved = self.backlog.move_to(rx, tx);
            rx.clear();
        }
        rx.clear();
        match host.closed() {
            // Under the lock of the channel, which `NetShared::close` takes after it has set this.
            Closed::No => {
                if let Some(channel) = &mut self.channel {
                    moved = moved.and(kick(channel, rx, tx));
                }
            }
            closed => tx.end(closed == Closed::Quiesced),
        }
        while tx.take_sent().is_some() {}
        self.idle = Some(state);
        // The device looks after the channel from here on.
        self.wakers.wake(DEVICE);
        moved
    }

    /// For the device, where no queue owns the state: drops received frames and arms the channel. `None` where a queue does.
    pub fn drop_received(&mut self) -> Option<Arm> {
        let QueueState { mut rx, mut tx } = self.idle.take()?;
        rx.clear();
        while tx.take_sent().is_some() {}
        let armed = self.arm(&mut rx, &mut tx);
        self.idle = Some(QueueState { rx, tx });
        Some(armed)
    }

    /// Sends a message of the device from `address`.
    ///
    /// # Safety
    ///
    /// The `len` bytes at `address` are accessed as atomics only, and live until the channel has been closed.
    pub unsafe fn send_control(&mut self, transaction: u64, address: u64, len: u32) -> Result<(), Rejected> {
        let channel = self.channel.as_mut().ok_or(Fault::Removed)?;
        let message = nvsp_packet(NvspChannelType::CONTROL, NVSP_NO_SECTION, 0);
        let range = core::iter::once(GpaRange::contiguous(address, len));
        // SAFETY: by the contract of this function.
        unsafe { channel.send_gpa_ranges(transaction | CONTROL, range, &[message.as_bytes()]) }?;
        channel.kick();
        Ok(())
    }

    /// Sends an NVSP message of the device, of which the host confirms the receipt.
    pub fn send_nvsp(&mut self, transaction: u64, message: &[u8]) -> Result<(), Rejected> {
        let channel = self.channel.as_mut().ok_or(Fault::Removed)?;
        channel.send_in_band(transaction | CONTROL, true, &[message])?;
        channel.kick();
        Ok(())
    }

    /// Makes room in the ring: shows the host what is in it.
    pub fn publish(&mut self) {
        if let Some(channel) = &mut self.channel {
            channel.kick();
        }
    }

    /// Ends the state of the queue where the channel owns it, after all channels have been closed, and wakes everybody.
    pub fn end(&mut self, closed: Closed) {
        if let Some(state) = &mut self.idle {
            if closed != Closed::No {
                state.tx.end(closed == Closed::Quiesced);
            }
        }
        self.wakers.wake_all();
    }
}

/// Writes completions and a section that waited for room, and signals the host where that is due.
#[inline]
fn finish_round<P: Platform, B: DmaBuffer>(
    channel: &mut Channel<P>,
    rx: &mut RxState<P>,
    tx: &mut TxState<P, B>,
    is_idle: bool,
) -> Result<(), Fault> {
    rx.completions.write_to(channel)?;
    let is_flush_pending = tx.is_flush_pending();
    if is_flush_pending {
        tx.flush(channel)?;
    }
    if rx.completions.take_signal(is_idle) || is_flush_pending {
        channel.kick();
    }
    Ok(())
}

/// Writes everything that waits, and signals the host where it asks for that.
fn kick<P: Platform, B: DmaBuffer>(
    channel: &mut Channel<P>,
    rx: &mut RxState<P>,
    tx: &mut TxState<P, B>,
) -> Result<(), Fault> {
    tx.flush(channel)?;
    rx.completions.write_to(channel)?;
    rx.completions.take_signal(true);
    channel.kick();
    Ok(())
}
