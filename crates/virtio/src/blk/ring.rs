//! A common interface to the two kinds of queue of a block device: the record queue if the negotiated features allow it, otherwise
//! the general virtqueue.

use super::queue::Pending;
use crate::queue::{AreaRange, Body, Parts, RecordQueue, Ring, TransferCheck, Used, VirtQueue};
use core::sync::atomic::Ordering;
use paravirt_device::Rejected;
use paravirt_platform::{Direction, DmaBuffer, Platform};

/// Word offsets of header, parameter and status in a slot's area of a general queue. The area is one cache line.
const HEADER: usize = 0;
const PARAMETER: usize = 2;
const STATUS: usize = 6;
/// The size of an area in bytes, and the byte ranges of its parts.
pub(super) const AREA_LEN: u16 = 64;
const HEADER_RANGE: AreaRange = AreaRange::new(0, 16);
const WORDS_RANGE: AreaRange = AreaRange::new(8 * PARAMETER as u16, 16);
const STATUS_RANGE: AreaRange = AreaRange::new(8 * STATUS as u16, 1);
/// The value of the status byte until the device has written it.
const STATUS_NONE: u8 = 0xff;
/// The maximum length of an answer in bytes.
const ANSWER_LEN: u8 = 32;

/// A queue of a block device.
pub(super) trait BlkRing<B>: Ring<Used = Used<B, Pending>> {
    /// Submits a request with data.
    fn submit(
        &mut self,
        header: [u64; 2],
        buffer: B,
        direction: Direction,
        pending: Pending,
        check: impl TransferCheck,
    ) -> Result<(), (Rejected, B)>;

    /// Submits a request without data and returns its slot.
    fn submit_command(&mut self, header: [u64; 2], body: Body, pending: Pending) -> Result<u16, Rejected>;

    /// Returns the status of the completed request in `slot`.
    fn status(&self, slot: u16) -> u8;

    /// Returns the device's answer to the completed request in `slot`, which had a [`Body::Answer`].
    fn answer(&self, slot: u16) -> [u8; ANSWER_LEN as usize];

    /// Returns the driver's state of each request in flight.
    fn pending(&self) -> impl Iterator<Item = &Pending>;
}

impl<P: Platform, B: DmaBuffer> BlkRing<B> for RecordQueue<P, B, Pending> {
    #[inline(always)]
    fn submit(
        &mut self,
        header: [u64; 2],
        buffer: B,
        direction: Direction,
        pending: Pending,
        check: impl TransferCheck,
    ) -> Result<(), (Rejected, B)> {
        self.submit(header, buffer, direction, pending, check)
    }

    fn submit_command(&mut self, header: [u64; 2], body: Body, pending: Pending) -> Result<u16, Rejected> {
        let slot = self.next_slot();
        self.submit_command(header, body, pending).map(|()| slot)
    }

    #[inline(always)]
    fn status(&self, slot: u16) -> u8 {
        self.status(slot)
    }

    fn answer(&self, slot: u16) -> [u8; ANSWER_LEN as usize] {
        self.answer(slot)
    }

    fn pending(&self) -> impl Iterator<Item = &Pending> {
        self.extras()
    }
}

impl<P: Platform, B: DmaBuffer> BlkRing<B> for VirtQueue<P, B, Pending> {
    #[inline(always)]
    fn submit(
        &mut self,
        header: [u64; 2],
        buffer: B,
        direction: Direction,
        pending: Pending,
        check: impl TransferCheck,
    ) -> Result<(), (Rejected, B)> {
        let parts = Parts::around(&[HEADER_RANGE], &[STATUS_RANGE]);
        let sent = self.submit(parts, Some(buffer), direction, pending, |body, area| {
            check.segments(body)?;
            let area = area.ok_or(Rejected::Full)?;
            area[HEADER].store(header[0], Ordering::Relaxed);
            area[HEADER + 1].store(header[1], Ordering::Relaxed);
            area[STATUS].store(u64::from(STATUS_NONE), Ordering::Relaxed);
            Ok(())
        });
        match sent {
            Ok(()) => Ok(()),
            Err(refused) => match refused.buffer {
                Some(buffer) => Err((refused.reason, buffer)),
                // Not reached: a refusal returns the buffer.
                None => Ok(()),
            },
        }
    }

    fn submit_command(&mut self, header: [u64; 2], body: Body, pending: Pending) -> Result<u16, Rejected> {
        let answer = if let Body::Answer(len) = body { u16::from(len.clamp(1, ANSWER_LEN)) } else { 0 };
        let written = [AreaRange::new(WORDS_RANGE.offset, answer.max(1)), STATUS_RANGE];
        let read = [HEADER_RANGE, WORDS_RANGE];
        let (head, tail) = match body {
            Body::None => (&read[..1], &written[1..]),
            Body::Words(_) => (&read[..], &written[1..]),
            Body::Answer(_) => (&read[..1], &written[..]),
        };
        let mut slot = 0;
        let parts = Parts::around(head, tail);
        self.submit_segments(parts, paravirt_platform::DmaSegments::EMPTY, pending, |queue, next| {
            slot = next;
            let area = queue.area(next).ok_or(Rejected::Full)?;
            let words = if let Body::Words([first, second]) = body { [first, second] } else { [0; 2] };
            for (to, word) in area.iter().zip(header.into_iter().chain(words)) {
                to.store(word, Ordering::Relaxed);
            }
            area[STATUS].store(u64::from(STATUS_NONE), Ordering::Relaxed);
            Ok(())
        })?;
        Ok(slot)
    }

    #[inline(always)]
    fn status(&self, slot: u16) -> u8 {
        self.area(slot).map_or(STATUS_NONE, |area| area[STATUS].load(Ordering::Relaxed) as u8)
    }

    fn answer(&self, slot: u16) -> [u8; ANSWER_LEN as usize] {
        let mut bytes = [0; ANSWER_LEN as usize];
        let words = self.area(slot).into_iter().flat_map(|area| area.iter().skip(PARAMETER));
        for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
        }
        bytes
    }

    fn pending(&self) -> impl Iterator<Item = &Pending> {
        self.extras()
    }
}
