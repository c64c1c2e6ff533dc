//! The entropy device. VIRTIO 1.3 §5.4

use crate::device::{OpenOptions, VirtioDevice};
use crate::features::Features;
use crate::request_queue::{BoxedQueue, Outcome, QueueBuilder, QueueParams};
use crate::transport::{OpenError, Transport};
use core::fmt;
use core::task::Waker;
use paravirt_device::{Arm, Entropy, Fault, Notify};
use paravirt_platform::{Direction, DmaSlice, Platform, ProcessorId};

/// Bytes of one request.
const REQUEST_LEN: usize = 1024;

/// A virtio entropy device.
pub struct VirtioRng<P: Platform> {
    queue: BoxedQueue<P, DmaSlice<P>>,
    /// The buffer while it is not in flight; its bytes from `next` to `end` are random data that have not been returned yet.
    buffer: Option<DmaSlice<P>>,
    next: usize,
    end: usize,
}

impl<P: Platform> VirtioRng<P> {
    /// Initialises the device and puts its queue in service. The first [`fill`](Entropy::fill) submits the first request.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; the device has then been reset.
    pub fn open(platform: &P, transport: Transport<P>, options: &OpenOptions) -> Result<Self, OpenError> {
        let device = VirtioDevice::open(platform, transport, |_| Features::SUPPORTED.bits())?;
        let size = options.queue_size.min(8);
        let builder = QueueBuilder::new(&device, &QueueParams::new(0, size))?;
        device.start(|_| ProcessorId(0))?;
        let buffer = Some(DmaSlice::alloc(platform, REQUEST_LEN)?);
        Ok(Self { queue: builder.build_boxed()?, buffer, next: 0, end: 0 })
    }
}

impl<P: Platform> fmt::Debug for VirtioRng<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let available = self.end.saturating_sub(self.next);
        f.debug_struct("VirtioRng").field("available", &available).finish_non_exhaustive()
    }
}

impl<P: Platform> Notify for VirtioRng<P> {
    fn arm(&mut self) -> Arm {
        self.queue.arm()
    }

    fn disarm(&mut self) {
        self.queue.disarm();
    }

    fn register(&mut self, waker: &Waker) {
        self.queue.register(waker);
    }
}

impl<P: Platform> Entropy for VirtioRng<P> {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<usize, Fault> {
        match self.queue.next()? {
            Some(Outcome::Used(used)) => {
                (self.next, self.end) = (0, used.len as usize);
                self.buffer = used.buffer;
            }
            Some(Outcome::Aborted(used)) => self.buffer = used.buffer,
            None => {}
        }
        let Some(mut buffer) = self.buffer.take() else { return Ok(0) };
        let available = buffer.bytes_mut().get_mut(self.next..self.end).unwrap_or_default();
        let count = available.len().min(bytes.len());
        for (to, from) in bytes.iter_mut().zip(available) {
            // Returned bytes are erased.
            *to = core::mem::take(from);
        }
        self.next = self.next.saturating_add(count);
        let is_empty = self.next >= self.end;
        if is_empty && self.queue.fault().is_none() && self.queue.queue().has_room(1) {
            let submitted = self.queue.submit(buffer, Direction::FromDevice);
            self.buffer = submitted.err().and_then(|refused| refused.buffer);
            self.queue.kick();
        } else {
            self.buffer = Some(buffer);
        }
        Ok(count)
    }
}
