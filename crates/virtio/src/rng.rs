//! The entropy device. VIRTIO 1.3 §5.4

use crate::device::{Core, OpenOptions};
use crate::features::Features;
use crate::lane::{Draft, Lane, Outcome, Wish};
use crate::transport::{OpenError, VirtioTransport};
use core::task::Waker;
use paravirt_device::{Arm, Entropy, Fault, Notify};
use paravirt_platform::{Direction, DmaSlice, Platform, ProcessorId};

/// Bytes that are asked for at once.
const REQUEST_LEN: usize = 1024;

/// A virtio entropy device.
pub struct VirtioRng<P: Platform, T: VirtioTransport> {
    lane: Lane<P, T, DmaSlice<P>, ()>,
    /// What the device gave, and which of its bytes have not been handed out.
    buffer: Option<DmaSlice<P>>,
    next: usize,
    end: usize,
}

impl<P: Platform, T: VirtioTransport> VirtioRng<P, T> {
    /// Takes the device into service. Nothing is asked for before the first [`fill`](Entropy::fill).
    ///
    /// # Errors
    ///
    /// [`OpenError`]; the device has then been reset.
    pub fn open(platform: &P, transport: T, options: &OpenOptions) -> Result<Self, OpenError> {
        let core = Core::open(platform, transport, |_| Features::SUPPORTED.bits())?;
        let size = options.queue_size.min(8);
        let draft = Draft::new(&core, &Wish { index: 0, size, indirect: 0, slot_areas: false })?;
        Core::start(&core, |_| ProcessorId(0))?;
        let buffer = Some(DmaSlice::alloc(platform, REQUEST_LEN)?);
        Ok(Self { lane: draft.into_lane()?, buffer, next: 0, end: 0 })
    }
}

impl<P: Platform, T: VirtioTransport> Notify for VirtioRng<P, T> {
    fn arm(&mut self) -> Arm {
        self.lane.arm()
    }

    fn disarm(&mut self) {
        self.lane.disarm();
    }

    fn register(&mut self, waker: &Waker) {
        self.lane.register(waker);
    }
}

impl<P: Platform, T: VirtioTransport> Entropy for VirtioRng<P, T> {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<usize, Fault> {
        match self.lane.next()? {
            Some(Outcome::Used(used)) => {
                (self.next, self.end) = (0, used.len as usize);
                self.buffer = used.buffer;
            }
            Some(Outcome::Aborted(used)) => self.buffer = used.buffer,
            None => {}
        }
        let Some(mut buffer) = self.buffer.take() else { return Ok(0) };
        let given = buffer.bytes_mut().get_mut(self.next..self.end).unwrap_or_default();
        let count = given.len().min(bytes.len());
        for (to, from) in bytes.iter_mut().zip(given) {
            // What was handed out is not kept.
            *to = core::mem::take(from);
        }
        self.next = self.next.saturating_add(count);
        let is_empty = self.next >= self.end;
        if is_empty && self.lane.fault().is_none() && self.lane.queue().has_room(1) {
            let sent = self.lane.submit(&[], Some(buffer), Direction::FromDevice, &[], (), |_, _| Ok(()));
            self.buffer = sent.err().and_then(|refused| refused.buffer);
            self.lane.kick();
        } else {
            self.buffer = Some(buffer);
        }
        Ok(count)
    }
}
