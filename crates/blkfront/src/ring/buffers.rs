//! The pages of buffers: granted for a request, or copied to and from pages of the queue.

use super::{Memory, PAGE, PAGE_SHIFT, Ring, Span};
use paravirt_device::Rejected;
use paravirt_platform::{BusAddr, Direction, DmaBuffer, PAGE_SIZE, Platform, Segment};
use paravirt_xen::Access;

impl<P: Platform, B: DmaBuffer> Ring<P, B> {
    /// Grants the pages of a buffer.
    #[inline(always)]
    pub(super) fn grant(
        &mut self,
        id: u16,
        lba: u64,
        direction: Direction,
        buffer: &mut B,
    ) -> Result<Span, Rejected> {
        let submitted = buffer.submit(direction).map_err(Rejected::Buffer)?;
        let granted = match submitted.as_slice() {
            [one] => self.grant_one(id, lba, direction, *one),
            several => self.grant_several(id, lba, direction, several),
        };
        if granted.is_err() {
            // SAFETY: it was submitted above, and nothing of it is granted.
            unsafe { buffer.reclaim() };
        }
        granted
    }

    /// Grants the pages of a segment.
    #[inline(always)]
    fn grant_one(&self, id: u16, lba: u64, direction: Direction, one: Segment) -> Result<Span, Rejected> {
        let offset = one.addr.0 & (PAGE - 1);
        let len = u64::from(one.len);
        self.check(lba, len, direction)?;
        let pages = offset.wrapping_add(len).wrapping_add(PAGE - 1) >> PAGE_SHIFT;
        if offset & 511 != 0 || pages > u64::from(self.max_segments) {
            return Err(Rejected::Invalid);
        }
        let first = one.addr.0 & !(PAGE - 1);
        for page in 0..pages {
            let address = BusAddr(first.wrapping_add(page << PAGE_SHIFT));
            // SAFETY: the buffer owns its pages, and is in flight until the grant was revoked.
            unsafe { self.grant_page(id, page as u16, address, direction) };
        }
        Ok(Span::new(offset, len))
    }

    /// Grants the pages of several segments, which are joined at the boundaries of pages.
    #[inline(never)]
    fn grant_several(
        &self,
        id: u16,
        lba: u64,
        direction: Direction,
        several: &[Segment],
    ) -> Result<Span, Rejected> {
        let len = several.iter().map(|segment| u64::from(segment.len)).sum::<u64>();
        self.check(lba, len, direction)?;
        let (mut pages, mut offset) = (0u64, 0);
        for (at, segment) in several.iter().enumerate() {
            let start = segment.addr.0 & (PAGE - 1);
            let is_last = at.saturating_add(1) == several.len();
            let end = start.wrapping_add(u64::from(segment.len));
            let is_bounded = (at == 0 || start == 0) && (is_last || end & (PAGE - 1) == 0);
            if !is_bounded || start & 511 != 0 {
                return Err(Rejected::Invalid);
            }
            offset = if at == 0 { start } else { offset };
            pages = pages.saturating_add(end.wrapping_add(PAGE - 1) >> PAGE_SHIFT);
        }
        if pages > u64::from(self.max_segments) {
            return Err(Rejected::Invalid);
        }
        let mut index = 0u16;
        for segment in several {
            let first = segment.addr.0 & !(PAGE - 1);
            let end = segment.addr.0.wrapping_add(u64::from(segment.len));
            let mut page = first;
            while page < end {
                // SAFETY: the buffer owns its pages, and is in flight until the grant was revoked.
                unsafe { self.grant_page(id, index, BusAddr(page), direction) };
                index = index.wrapping_add(1);
                page = page.wrapping_add(PAGE);
            }
        }
        Ok(Span::new(offset, len))
    }

    /// # Safety
    ///
    /// The page is the backend's until the grant is revoked.
    #[inline(always)]
    unsafe fn grant_page(&self, id: u16, index: u16, page: BusAddr, direction: Direction) {
        let access = if direction == Direction::ToDevice { Access::Read } else { Access::Write };
        // SAFETY: by the contract of this function.
        unsafe { self.grants.grant(self.first_grant(id).wrapping_add(index.into()), page, access) };
    }

    /// Takes pages of the queue for a buffer, and for a write copies it to them.
    #[inline(never)]
    pub(super) fn copy(
        &mut self,
        id: u16,
        lba: u64,
        direction: Direction,
        buffer: &mut B,
    ) -> Result<Span, Rejected> {
        let shared = Rejected::Buffer(paravirt_platform::SubmitError::SharedPages);
        let bytes = buffer.bytes_to_copy().ok_or(shared)?;
        self.check(lba, bytes.len() as u64, direction)?;
        let count = bytes.len().div_ceil(PAGE_SIZE);
        if count > usize::from(self.max_segments) {
            return Err(Rejected::Invalid);
        }
        if count > self.free_bounce.len() {
            return Err(Rejected::Full);
        }
        for (index, part) in (0u16..).zip(bytes.chunks(PAGE_SIZE)) {
            let Some(page) = self.free_bounce.pop() else { return Err(Rejected::Full) };
            let at = usize::from(page).wrapping_mul(PAGE_SIZE);
            if direction == Direction::ToDevice {
                let _ = self.bounce.shared().copy_in(at, part);
            }
            let place = self.bounce_index(id, index);
            self.bounced.get_mut(place).into_iter().for_each(|place| *place = page);
        }
        Ok(Span::new(0, bytes.len() as u64))
    }

    /// Ends the backend's access to the pages of a request; returns whether that was possible.
    #[inline(always)]
    pub(super) fn revoke(&self, id: u16, span: Span) -> bool {
        let first = self.first_grant(id);
        let mut is_free = true;
        for index in 0..span.pages {
            is_free &= self.grants.revoke(first.wrapping_add(index.into()));
        }
        is_free
    }

    /// Ends the backend's access to the memory of a request, and returns its buffer. If `was_read`, what was read is copied to a buffer whose
    /// own pages were not granted. If the backend keeps a page of the buffer's, the buffer is the error, and is in flight still.
    pub(super) fn take_back(
        &mut self,
        id: u16,
        span: Span,
        memory: Memory<B>,
        was_read: bool,
    ) -> Result<Option<B>, B> {
        match memory {
            Memory::None => Ok(None),
            Memory::Held(buffer) => Ok(Some(buffer)),
            Memory::Granted(buffer) if !self.revoke(id, span) => Err(buffer),
            Memory::Granted(mut buffer) => {
                // SAFETY: `grant` submitted it, and every grant of it was revoked.
                unsafe { buffer.reclaim() };
                Ok(Some(buffer))
            }
            Memory::Copied(mut buffer) => {
                self.copy_back(id, span, was_read, &mut buffer);
                Ok(Some(buffer))
            }
        }
    }

    /// Copies what was read to the buffer, if it was, and frees the pages.
    fn copy_back(&mut self, id: u16, span: Span, is_read: bool, buffer: &mut B) {
        let mut bytes = buffer.bytes_to_copy().unwrap_or_default();
        for index in 0..span.pages {
            let Some(page) = self.bounced.get(self.bounce_index(id, index)).copied() else { continue };
            let at = usize::from(page).wrapping_mul(PAGE_SIZE);
            let (part, rest) = bytes.split_at_mut(bytes.len().min(PAGE_SIZE));
            if is_read {
                let _ = self.bounce.shared().copy_out(at, part);
            }
            bytes = rest;
            let _ = self.free_bounce.push(page);
        }
    }
}
