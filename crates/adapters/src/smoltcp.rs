//! A `smoltcp::phy::Device` of the queues of one network device.

use crate::checksum;
use paravirt_device::{Arm, NetInfo, NetQueue, NetRx, NetTx, Offloads, TxMeta};
use smoltcp::phy::{self, Checksum, DeviceCapabilities, Medium};
use smoltcp::time::Instant;

const ETHERNET_LEN: usize = 14;

/// Up to `N` queue pairs as one `phy::Device`: frames come in from all of them and go out on the first.
///
/// Where the device verifies and fills in checksums, smoltcp is told not to: what the device did not verify is verified
/// here, and a frame whose checksum is wrong is dropped, and counted. smoltcp has sent what it wants to send when its `poll`
/// returns; call [`kick`](Self::kick) then, once for all frames.
pub struct Device<'s, Q, const N: usize> {
    queues: [Q; N],
    frame_len: usize,
    offloads: Offloads,
    /// Where frames that came in several segments are put together.
    scratch: &'s mut [u8],
    next: usize,
    dropped: u64,
}

impl<'s, Q: NetQueue, const N: usize> Device<'s, Q, N> {
    /// Wraps `queues`, of the device that `info` describes. `scratch` is where frames that come in several segments are put
    /// together: as long as the longest that may come, 65,549 bytes if the device's receive offloads are on. Longer frames
    /// are dropped, and counted.
    pub fn new(queues: [Q; N], info: &NetInfo, scratch: &'s mut [u8]) -> Self {
        let frame_len = usize::from(info.mtu).saturating_add(ETHERNET_LEN);
        Self { queues, frame_len, offloads: info.offloads, scratch, next: 0, dropped: 0 }
    }

    /// Tells the host of what was sent, if it has to be told.
    pub fn kick(&mut self) {
        for queue in &mut self.queues {
            queue.split().1.kick();
        }
    }

    /// Asks for interrupts; [`Arm::Pending`] where a frame is there already: poll again before sleeping.
    #[must_use]
    pub fn arm(&mut self) -> Arm {
        let mut state = Arm::Armed;
        for queue in &mut self.queues {
            if queue.arm() == Arm::Pending {
                state = Arm::Pending;
            }
        }
        state
    }

    /// Frames that were dropped because their checksum was wrong or `scratch` was too short.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// The queues.
    pub fn queues_mut(&mut self) -> &mut [Q; N] {
        &mut self.queues
    }

    /// The index of a queue with a frame, looking at each once from the one behind the last on.
    fn find_frame(&mut self) -> Option<usize> {
        for _ in 0..N {
            let index = self.next;
            self.next = index.wrapping_add(1).checked_rem(N).unwrap_or(0);
            let Some(queue) = self.queues.get_mut(index) else { continue };
            // What came in before a fault can still be read.
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

/// A frame that came in.
pub struct RxToken<'a, R: NetRx + ?Sized> {
    rx: &'a mut R,
    scratch: &'a mut [u8],
}

/// A slot that is reserved for a frame to go out.
pub struct TxToken<'a, T: NetTx + ?Sized> {
    tx: &'a mut T,
    is_checksum_offloaded: bool,
}

impl<R: NetRx + ?Sized> phy::RxToken for RxToken<'_, R> {
    fn consume<O, F: FnOnce(&[u8]) -> O>(self, f: F) -> O {
        // `find_frame` saw that there is one and that it fits.
        let result = f(self.rx.contiguous(self.scratch).unwrap_or_default());
        self.rx.pop();
        result
    }
}

impl<T: NetTx + ?Sized> phy::TxToken for TxToken<'_, T> {
    fn consume<O, F: FnOnce(&mut [u8]) -> O>(self, len: usize, f: F) -> O {
        // The slot was reserved for the largest frame that smoltcp was told of.
        let (frame, _) = self.tx.slot().split_at_mut(len);
        let result = f(frame);
        let mut meta = TxMeta::default();
        if self.is_checksum_offloaded {
            meta.checksum = checksum::prepare(frame);
        }
        // Refused only where the device failed since: the frame is lost, as on a wire.
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
        // An answer goes out on the queue on which the frame came in.
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
