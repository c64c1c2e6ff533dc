//! Responses, and what ends with them.

use super::{Memory, Pending, Ring, Span, Stage};
use crate::wire::{DIRECT_SEGMENTS, Operation, Response, Status};
use paravirt_device::{Completion, Fault, IoError};
use paravirt_platform::{DmaBuffer, Platform};

impl<P: Platform, B: DmaBuffer> Ring<P, B> {
    /// Returns the next completion.
    ///
    /// # Errors
    ///
    /// [`Fault`]: the backend has broken the rules, or keeps pages. The device is to be reset.
    #[inline(always)]
    pub(crate) fn next(&mut self) -> Result<Option<Completion<B>>, Fault> {
        if let Some(done) = self.ended.pop() {
            return Ok(Some(done));
        }
        while self.ring.responses()? > 0 {
            let (_, entry) = self.ring.response();
            let response = Response::read(entry);
            if let Some(done) = self.take_in(response)? {
                return Ok(Some(done));
            }
        }
        Ok(None)
    }

    /// Takes in a response; returns the completion if there is nothing more to do for the request.
    #[inline(always)]
    fn take_in(&mut self, response: Response) -> Result<Option<Completion<B>>, Fault> {
        let place = usize::try_from(response.id).ok().and_then(|id| self.pending.get_mut(id));
        let Some(request) = place.and_then(Option::take) else {
            self.count_stray();
            return Ok(None);
        };
        let id = response.id as u16;
        let result = match response.status() {
            Status::Done => Ok(()),
            Status::Unsupported => Err(IoError::Unsupported),
            Status::Error => Err(IoError::Device),
        };
        if let (Memory::Granted(_), Stage::Last) = (&request.memory, request.stage) {
            if request.span.pages <= DIRECT_SEGMENTS {
                return self.finish(id, request, result);
            }
        }
        self.take_in_other(id, request, result)
    }

    /// Ends a request whose buffer is granted.
    #[inline(always)]
    fn finish(
        &mut self,
        id: u16,
        request: Pending<B>,
        result: Result<(), IoError>,
    ) -> Result<Option<Completion<B>>, Fault> {
        let Memory::Granted(mut buffer) = request.memory else { return Ok(None) };
        if !self.revoke(id, request.span) {
            return self.lose(request.tag, request.span, buffer);
        }
        // SAFETY: `grant` submitted it, and every grant of it was revoked.
        unsafe { buffer.reclaim() };
        let _ = self.free.push(id);
        Ok(Some(Completion::new(request.tag, Some(buffer), result)))
    }

    /// A backend has answered a request and keeps its pages: the buffer is leaked, and its number not used again.
    #[cold]
    fn lose(&mut self, tag: u64, span: Span, buffer: B) -> Result<Option<Completion<B>>, Fault> {
        self.grants.count_lost(span.pages.into());
        // In flight: its memory is leaked.
        drop(buffer);
        let _ = self.ended.push(Completion::new(tag, None, Err(IoError::Device)));
        Err(Fault::Protocol)
    }

    /// As [`take_in`](Self::take_in), for requests with more than one step, or copied.
    #[inline(never)]
    fn take_in_other(
        &mut self,
        id: u16,
        mut request: Pending<B>,
        result: Result<(), IoError>,
    ) -> Result<Option<Completion<B>>, Fault> {
        let was_read = request.operation == Operation::Read && result.is_ok();
        let memory = core::mem::replace(&mut request.memory, Memory::None);
        let buffer = match self.take_back(id, request.span, memory, was_read) {
            Ok(buffer) => buffer,
            Err(buffer) => return self.lose(request.tag, request.span, buffer),
        };
        if request.stage == Stage::FlushNext && result.is_ok() {
            request.stage = Stage::Flush;
            request.memory = buffer.map_or(Memory::None, Memory::Held);
            self.put(id, request);
            self.send(id);
            // Nobody else kicks it.
            self.kick();
            return Ok(None);
        }
        let _ = self.free.push(id);
        Ok(Some(Completion::new(request.tag, buffer, result)))
    }

    #[cold]
    fn count_stray(&mut self) {
        if self.strays == 0 {
            log::warn!("blkfront: response to no request in flight: ignored, as further ones");
        }
        self.strays = self.strays.saturating_add(1);
    }
}
