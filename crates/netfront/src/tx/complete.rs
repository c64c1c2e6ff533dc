//! Responses, and what ends with them.

use super::{Memory, NetFrontTx, Packet, Part, WATCHDOG};
use crate::wire::read_tx;
use paravirt_device::{Fault, IoError, Sent};
use paravirt_platform::{DmaBuffer, Platform};

impl<P: Platform, B: DmaBuffer> NetFrontTx<P, B> {
    /// Collects the frames that the backend has taken.
    ///
    /// # Errors
    ///
    /// [`Fault`]: the backend has broken the rules, or keeps pages.
    #[inline]
    pub(crate) fn poll(&mut self) -> Result<(), Fault> {
        let mut count = self.ring.responses()?;
        if count > 0 {
            self.watchdog.note_progress();
        }
        while count > 0 {
            count = count.wrapping_sub(1);
            let (_, entry) = self.ring.response();
            // That of an extra has no number.
            let Some((id, is_good)) = read_tx(entry) else { continue };
            if usize::from(id) >= self.ring.size() as usize {
                self.count_stray();
                continue;
            }
            match core::mem::replace(self.parts.at_mut(id.into()), Part::None) {
                Part::Frame(frame) => {
                    let _ = self.free_frames.push(frame);
                    let _ = self.free.push(id);
                }
                part => self.take_in(id, part, is_good)?,
            }
        }
        Ok(())
    }

    /// Takes in the response to a request of a packet of several, or in a buffer of the caller.
    #[inline(never)]
    fn take_in(&mut self, id: u16, part: Part<B>, is_good: bool) -> Result<(), Fault> {
        let (first, mut packet) = match part {
            Part::First(packet) if packet.is_first_done => {
                *self.parts.at_mut(id.into()) = Part::First(packet);
                self.count_stray();
                return Ok(());
            }
            Part::First(packet) => (id, packet),
            Part::Of(first) => match core::mem::replace(self.parts.at_mut(first.into()), Part::None) {
                Part::First(packet) => (first, packet),
                other => {
                    *self.parts.at_mut(first.into()) = other;
                    self.count_stray();
                    return Ok(());
                }
            },
            Part::None | Part::Frame(_) => {
                self.count_stray();
                return Ok(());
            }
        };
        let is_free = !matches!(packet.memory, Memory::Buffer(..)) || self.grants.revoke(id.into());
        packet.left = packet.left.saturating_sub(1);
        packet.is_first_done |= id == first;
        packet.is_good &= is_good;
        packet.is_lost |= !is_free;
        let is_lost = packet.is_lost;
        if id != first && is_free {
            let _ = self.free.push(id);
        }
        if packet.left > 0 {
            // The number of the first stays in use until all have ended.
            *self.parts.at_mut(first.into()) = Part::First(packet);
        } else {
            self.finish(first, packet, None);
        }
        if is_lost { Err(Fault::Protocol) } else { Ok(()) }
    }

    /// Ends a packet.
    fn finish(&mut self, first: u16, packet: Packet<B>, aborted: Option<IoError>) {
        let Packet { is_good, is_lost, memory, .. } = packet;
        match memory {
            Memory::Frame(frame) => {
                let _ = self.free_frames.push(frame);
            }
            Memory::Large(large) => {
                let _ = self.free_large.push(large);
            }
            Memory::Filter => {}
            Memory::Buffer(mut buffer, tag) => {
                self.in_flight = self.in_flight.saturating_sub(1);
                let result = match aborted {
                    Some(error) => Err(error),
                    None if is_good => Ok(()),
                    None => Err(IoError::Device),
                };
                let buffer = if is_lost {
                    self.grants.count_lost(1);
                    None
                } else {
                    // SAFETY: `send` submitted it, and every grant of it was revoked.
                    unsafe { buffer.reclaim() };
                    Some(buffer)
                };
                // `send` keeps room for it.
                let _ = self.sent.push(Sent::new(tag, buffer, result));
            }
        }
        if !is_lost {
            let _ = self.free.push(first);
        }
    }

    #[cold]
    fn count_stray(&mut self) {
        if self.strays == 0 {
            log::warn!("netfront: response to no request in flight: ignored, as further ones");
        }
        self.strays = self.strays.saturating_add(1);
    }

    /// Ends what is in flight, after the backend has closed.
    pub(crate) fn drain(&mut self) {
        self.port = None;
        self.watchdog = WATCHDOG;
        for id in 0..self.ring.size() as u16 {
            match core::mem::replace(self.parts.at_mut(id.into()), Part::None) {
                Part::None => {}
                Part::Frame(frame) => {
                    let _ = self.free_frames.push(frame);
                    let _ = self.free.push(id);
                }
                Part::Of(first) => {
                    let is_free = self.grants.revoke(id.into());
                    if is_free {
                        let _ = self.free.push(id);
                    } else if let Part::First(packet) = self.parts.at_mut(first.into()) {
                        packet.is_lost = true;
                    }
                }
                first => *self.parts.at_mut(id.into()) = first,
            }
        }
        for id in 0..self.ring.size() as u16 {
            if let Part::First(mut packet) = core::mem::replace(self.parts.at_mut(id.into()), Part::None) {
                packet.is_lost |= !self.grants.revoke(id.into());
                self.finish(id, packet, Some(IoError::Aborted));
            }
        }
    }
}
