//! An `embassy_net_driver::Driver` of a network device and one of its queues.

use core::fmt;
use core::task::Context;
use embassy_net_driver as driver;
use paravirt_device::{Arm, Link, NetDevice, NetQueue, NetRx, NetTx, TxMeta};

const ETHERNET_LEN: usize = 14;

/// A device and its queue, for `embassy-net`.
pub struct Device<'s, D, Q> {
    device: D,
    queue: Q,
    scratch: &'s mut [u8],
}

impl<'s, D: NetDevice, Q: NetQueue> Device<'s, D, Q> {
    /// Wraps a device and its queue. `scratch` holds a copy of a received frame of several segments. It should be as long as the longest
    /// frame: 65,549 bytes with receive offloads. Longer frames are dropped.
    pub fn new(device: D, queue: Q, scratch: &'s mut [u8]) -> Self {
        Self { device, queue, scratch }
    }

    fn frame_len(&self) -> usize {
        usize::from(self.device.info().mtu).saturating_add(ETHERNET_LEN)
    }

    /// Polls until `wanted` returns true, or the queue is armed and will wake the task.
    fn poll_for(&mut self, cx: &mut Context<'_>, wanted: impl Fn(&mut Q, &mut [u8]) -> bool) -> bool {
        self.queue.register(cx.waker());
        // If the host keeps sending, the task is polled again.
        for _ in 0..8 {
            // Frames received before a fault can still be read.
            let _ = self.queue.poll();
            if wanted(&mut self.queue, self.scratch) {
                return true;
            }
            self.queue.split().1.kick();
            match self.queue.arm() {
                Arm::Armed => return false,
                Arm::Pending => {}
                // Nothing else wakes the task.
                Arm::Unsignalled => break,
            }
        }
        cx.waker().wake_by_ref();
        false
    }
}

/// A received frame.
pub struct RxToken<'a, R: NetRx + ?Sized> {
    rx: &'a mut R,
    scratch: &'a mut [u8],
}

/// A slot that is reserved for a frame to be sent.
pub struct TxToken<'a, T: NetTx + ?Sized>(&'a mut T);

impl<R: NetRx + ?Sized> driver::RxToken for RxToken<'_, R> {
    fn consume<O, F: FnOnce(&mut [u8]) -> O>(self, f: F) -> O {
        let result = f(self.rx.contiguous(self.scratch).unwrap_or_default());
        self.rx.pop();
        result
    }
}

impl<T: NetTx + ?Sized> driver::TxToken for TxToken<'_, T> {
    fn consume<O, F: FnOnce(&mut [u8]) -> O>(self, len: usize, f: F) -> O {
        // The slot was reserved for the largest frame that embassy knows of.
        let (frame, _) = self.0.slot().split_at_mut(len);
        let result = f(frame);
        // Refused only if the device failed after the reservation: the frame is lost, as on a wire. Each frame is kicked, as embassy
        // does not report the end of a batch.
        let _ = self.0.commit(len, TxMeta::default());
        self.0.kick();
        result
    }
}

impl<D: NetDevice, Q: NetQueue> driver::Driver for Device<'_, D, Q> {
    type RxToken<'a>
        = RxToken<'a, Q::Rx>
    where
        Self: 'a;
    type TxToken<'a>
        = TxToken<'a, Q::Tx>
    where
        Self: 'a;

    fn receive(&mut self, cx: &mut Context<'_>) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        let len = self.frame_len();
        let is_ready = self.poll_for(cx, |queue, scratch| {
            let (rx, tx) = queue.split();
            while rx.front().is_some_and(|frame| frame.segments > 1 && frame.len > scratch.len()) {
                rx.pop();
            }
            rx.front().is_some() && tx.reserve(len)
        });
        let (rx, tx) = self.queue.split();
        is_ready.then_some((RxToken { rx, scratch: self.scratch }, TxToken(tx)))
    }

    fn transmit(&mut self, cx: &mut Context<'_>) -> Option<Self::TxToken<'_>> {
        let len = self.frame_len();
        let is_ready = self.poll_for(cx, |queue, _| queue.split().1.reserve(len));
        is_ready.then_some(TxToken(self.queue.split().1))
    }

    fn link_state(&mut self, cx: &mut Context<'_>) -> driver::LinkState {
        self.device.register(cx.waker());
        while self.device.poll_event().is_some() {}
        match self.device.link() {
            Link::Up => driver::LinkState::Up,
            Link::Down => driver::LinkState::Down,
        }
    }

    fn capabilities(&self) -> driver::Capabilities {
        let mut capabilities = driver::Capabilities::default();
        capabilities.max_transmission_unit = self.frame_len();
        capabilities
    }

    fn hardware_address(&self) -> driver::HardwareAddress {
        driver::HardwareAddress::Ethernet(self.device.info().mac.0)
    }
}

impl<D: fmt::Debug, Q: fmt::Debug> fmt::Debug for Device<'_, D, Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device")
            .field("device", &self.device)
            .field("queue", &self.queue)
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
