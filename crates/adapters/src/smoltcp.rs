//! A `smoltcp::phy::Device` over the queues of a network device.

use crate::checksum;
use core::fmt;
use paravirt_device::{Arm, Fault, NetInfo, NetQueue, NetRx, NetTx, Offloads, TxMeta};
use smoltcp::phy::{self, Checksum, DeviceCapabilities, Medium};
use smoltcp::time::Instant;

const ETHERNET_LEN: usize = 14;

/// `N` queue pairs as one `phy::Device`: it receives from all pairs, answers on the receiving pair and sends on the first.
///
/// With checksum offload, smoltcp leaves TCP and UDP checksums to the device. Frames that the device did not verify are
/// verified here; frames with a wrong checksum are dropped and counted. Call [`kick`](Self::kick) after smoltcp's `poll`
/// returns, once for all frames.
///
/// No method blocks. All run in task context.
pub struct Device<'s, Q, const N: usize> {
    queues: [Q; N],
    frame_len: usize,
    offloads: Offloads,
    /// Holds a copy of a received frame of several segments.
    scratch: &'s mut [u8],
    next: usize,
    dropped: u64,
}

impl<'s, Q: NetQueue, const N: usize> Device<'s, Q, N> {
    /// Wraps the queue pairs of the device that `info` describes.
    ///
    /// `scratch` holds a copy of a frame of several segments. It should be as long as the longest frame: 65,549 bytes with
    /// receive offloads, otherwise the MTU and 14 bytes. Longer frames of several segments are dropped and counted.
    pub fn new(queues: [Q; N], info: &NetInfo, scratch: &'s mut [u8]) -> Self {
        let frame_len = usize::from(info.mtu).saturating_add(ETHERNET_LEN);
        Self { queues, frame_len, offloads: info.offloads, scratch, next: 0, dropped: 0 }
    }

    /// Notifies the host of sent frames, unless the host has suppressed notifications.
    pub fn kick(&mut self) {
        for queue in &mut self.queues {
            queue.split().1.kick();
        }
    }

    /// Enables interrupts on every pair; [`Arm::Pending`] when an event raced in: poll again before sleeping; [`Arm::Unsignalled`]
    /// if a pair has no interrupt.
    #[must_use]
    pub fn arm(&mut self) -> Arm {
        self.queues.iter_mut().fold(Arm::Armed, |state, queue| state.and(queue.arm()))
    }

    /// The earliest deadline of the queue pairs: see [`Notify::next_deadline`](paravirt_device::Notify::next_deadline). Sleep no longer,
    /// and then call [`expire`](Self::expire).
    pub fn next_deadline(&self) -> paravirt_platform::Instant {
        self.queues
            .iter()
            .map(|queue| queue.next_deadline())
            .min()
            .unwrap_or(paravirt_platform::Instant::NEVER)
    }

    /// Resets queue pairs whose host has stopped sending frames: see [`Notify::expire`](paravirt_device::Notify::expire).
    ///
    /// # Errors
    ///
    /// The first [`Fault`].
    pub fn expire(&mut self, now: paravirt_platform::Instant) -> Result<(), Fault> {
        self.queues.iter_mut().map(|queue| queue.expire(now)).fold(Ok(()), Result::and)
    }

    /// The number of received frames dropped because of a wrong checksum or a `scratch` that was too short.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// The queue pairs, in the order given to [`new`](Self::new).
    pub fn queues_mut(&mut self) -> &mut [Q; N] {
        &mut self.queues
    }

    /// The index of a queue pair with a valid frame; polls each pair once, round robin.
    fn find_frame(&mut self) -> Option<usize> {
        for _ in 0..N {
            let index = self.next;
            self.next = index.wrapping_add(1).checked_rem(N).unwrap_or(0);
            let Some(queue) = self.queues.get_mut(index) else { continue };
            // After a fault, frames received before it can still be read.
            let _ = queue.poll();
            while let Some(frame) = queue.split().0.front() {
                let (rx, _) = queue.split();
                let is_known = !self.offloads.contains(Offloads::RX_CHECKSUM);
                let bytes = rx.contiguous(self.scratch);
                if bytes.is_some_and(|bytes| is_known || checksum::is_valid(bytes, frame.meta.checksum)) {
                    return Some(index);
                }
                self.dropped = self.dropped.saturating_add(1);
                rx.pop();
            }
        }
        None
    }
}

/// A received frame.
pub struct RxToken<'a, R: NetRx + ?Sized> {
    rx: &'a mut R,
    scratch: &'a mut [u8],
}

/// A slot reserved for a frame to be sent.
pub struct TxToken<'a, T: NetTx + ?Sized> {
    tx: &'a mut T,
    is_checksum_offloaded: bool,
}

impl<R: NetRx + ?Sized> phy::RxToken for RxToken<'_, R> {
    fn consume<O, F: FnOnce(&[u8]) -> O>(self, f: F) -> O {
        // `find_frame` found a frame that fits.
        let result = f(self.rx.contiguous(self.scratch).unwrap_or_default());
        self.rx.pop();
        result
    }
}

impl<T: NetTx + ?Sized> phy::TxToken for TxToken<'_, T> {
    fn consume<O, F: FnOnce(&mut [u8]) -> O>(self, len: usize, f: F) -> O {
        // The slot was reserved for the maximum transmission unit that smoltcp knows.
        let (frame, _) = self.tx.slot().split_at_mut(len);
        let result = f(frame);
        let mut meta = TxMeta::default();
        if self.is_checksum_offloaded {
            meta.checksum = checksum::prepare(frame);
        }
        // Refused only if the device failed after the reservation: the frame is lost, as on a wire.
        let _ = self.tx.commit(len, meta);
        result
    }
}

impl<Q: NetQueue, const N: usize> phy::Device for Device<'_, Q, N> {
    type RxToken<'a>
        = RxToken<'a, Q::Rx>
    where
        Self: 'a;
    type TxToken<'a>
        = TxToken<'a, Q::Tx>
    where
        Self: 'a;

    fn receive(&mut self, _timestamp: Instant) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        let index = self.find_frame()?;
        let is_checksum_offloaded = self.offloads.contains(Offloads::TX_CHECKSUM);
        // A response is sent on the pair that received the frame.
        let (rx, tx) = self.queues.get_mut(index)?.split();
        if !tx.reserve(self.frame_len) {
            return None;
        }
        Some((RxToken { rx, scratch: self.scratch }, TxToken { tx, is_checksum_offloaded }))
    }

    fn transmit(&mut self, _timestamp: Instant) -> Option<Self::TxToken<'_>> {
        let queue = self.queues.first_mut()?;
        if !queue.split().1.reserve(self.frame_len) {
            let _ = queue.poll();
        }
        let is_checksum_offloaded = self.offloads.contains(Offloads::TX_CHECKSUM);
        let (_, tx) = queue.split();
        tx.reserve(self.frame_len).then_some(TxToken { tx, is_checksum_offloaded })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.frame_len;
        let rx = !self.offloads.contains(Offloads::RX_CHECKSUM);
        let tx = !self.offloads.contains(Offloads::TX_CHECKSUM);
        let who = match (rx, tx) {
            (true, true) => Checksum::Both,
            (true, false) => Checksum::Rx,
            (false, true) => Checksum::Tx,
            (false, false) => Checksum::None,
        };
        capabilities.checksum.tcp = who;
        capabilities.checksum.udp = who;
        capabilities
    }
}

impl<Q: fmt::Debug, const N: usize> fmt::Debug for Device<'_, Q, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device")
            .field("queues", &self.queues)
            .field("offloads", &self.offloads)
            .field("dropped", &self.dropped)
            .finish_non_exhaustive()
    }
}

impl<R: NetRx + ?Sized> fmt::Debug for RxToken<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RxToken").finish_non_exhaustive()
    }
}

impl<T: NetTx + ?Sized> fmt::Debug for TxToken<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TxToken").finish_non_exhaustive()
    }
}
