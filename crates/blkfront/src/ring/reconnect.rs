//! What becomes of a queue when the disk is closed and connected again.

use super::{Memory, Pending, Ring};
use crate::wire::Operation;
use core::sync::atomic::Ordering;
use paravirt_device::{Completion, IoError};
use paravirt_platform::{Direction, DmaBuffer, Instant, Platform};
use paravirt_xen::bus::Frontend;
use paravirt_xen::{DeviceError, FrontQueue, InFlight, Port, QueueNodes};

impl<P: Platform, B: DmaBuffer> FrontQueue<P> for Ring<P, B> {
    fn drain(&mut self, in_flight: InFlight) {
        self.port = None;
        while self.waiting.pop().is_some() {}
        if in_flight == InFlight::Abort {
            self.earliest = Instant::NEVER;
        }
        for id in 0..self.pending.len() as u16 {
            let Some(request) = self.pending.get_mut(usize::from(id)).and_then(Option::take) else {
                continue;
            };
            match in_flight {
                // In the new domain nothing is granted: `resume` grants it again.
                InFlight::SendAgain => self.put(id, request),
                InFlight::Abort => self.abort(id, request),
            }
        }
    }

    fn restart(
        &mut self,
        frontend: &Frontend<P>,
        open_port: &mut dyn FnMut() -> Result<Port<P>, DeviceError>,
    ) -> Result<QueueNodes, DeviceError> {
        let port = open_port()?;
        self.ring.restart(frontend.domain())?;
        self.bounce.restart(frontend.domain())?;
        if let Some(pages) = &mut self.indirect {
            pages.restart(frontend.domain())?;
        }
        self.grants.set_domain(frontend.domain());
        let mut nodes = QueueNodes::new();
        for (index, reference) in (0u32..).zip(self.ring.references()) {
            match self.order {
                0 => nodes.add("ring-ref", None, reference),
                _ => nodes.add("ring-ref", Some(index), reference),
            }
        }
        nodes.add("event-channel", None, port.number());
        self.port = Some(port);
        Ok(nodes)
    }

    fn resume(&mut self, _gate: u32) {
        for id in 0..self.pending.len() as u16 {
            let Some(mut request) = self.pending.get_mut(usize::from(id)).and_then(Option::take) else {
                continue;
            };
            if self.grant_again(id, &mut request) {
                self.put(id, request);
                self.send(id);
            } else {
                self.abort(id, request);
            }
        }
        self.kick();
    }

    fn forget(&mut self) {
        while self.ended.pop().is_some() {}
    }

    fn for_each_port(&self, work: &mut dyn FnMut(&Port<P>)) {
        self.port.iter().for_each(work);
    }
}

impl<P: Platform, B: DmaBuffer> Ring<P, B> {
    /// Grants the pages of a request to another backend; returns whether that was possible.
    fn grant_again(&mut self, id: u16, request: &mut Pending<B>) -> bool {
        let is_read = request.operation == Operation::Read;
        let direction = if is_read { Direction::FromDevice } else { Direction::ToDevice };
        let lba = request.sector >> (self.limits.sector_shift.load(Ordering::Relaxed) & 63);
        match &mut request.memory {
            Memory::None | Memory::Held(_) | Memory::Copied(_) => true,
            Memory::Granted(buffer) => {
                if !self.revoke(id, request.span) {
                    return false;
                }
                // SAFETY: `grant` submitted it, and every grant of it was revoked.
                unsafe { buffer.reclaim() };
                let granted = self.grant(id, lba, direction, buffer);
                // If it fails, the buffer is not in flight any more.
                let is_granted = granted.is_ok();
                if !is_granted {
                    let memory = core::mem::replace(&mut request.memory, Memory::None);
                    if let Memory::Granted(buffer) = memory {
                        request.memory = Memory::Held(buffer);
                    }
                }
                is_granted
            }
        }
    }

    /// Ends a request that a backend has not answered, which has closed, and keeps no page that can be revoked.
    fn abort(&mut self, id: u16, request: Pending<B>) {
        let buffer = match self.take_back(id, request.span, request.memory, false) {
            Ok(buffer) => {
                let _ = self.free.push(id);
                buffer
            }
            // Its memory is leaked, as it is in flight, and its number not used again.
            Err(_) => {
                self.grants.count_lost(request.span.pages.into());
                None
            }
        };
        let _ = self.ended.push(Completion::new(request.tag, buffer, Err(IoError::Aborted)));
    }
}
