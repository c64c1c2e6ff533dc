//! How large a queue is.

use crate::wire::DIRECT_SEGMENTS;

/// Pages of a queue to which buffers are copied that do not own their pages; and with persistent grants, pages for each request, as every
/// buffer is copied then.
const BOUNCE_PAGES: usize = 64;
const PERSISTENT_PAGES: usize = 8;

/// What a queue is made of.
#[derive(Copy, Clone)]
pub(crate) struct Shape {
    pub handle: u16,
    pub order: u32,
    pub requests: u16,
    pub segments: u16,
    pub is_persistent: bool,
}

impl Shape {
    /// What the smallest queue takes: four requests, a ring of two pages, and the pages to copy to.
    pub const FEWEST_GRANTS: u32 = 4 * DIRECT_SEGMENTS as u32 + 2 + BOUNCE_PAGES as u32;

    /// The same with fewer requests, and with segments in requests alone, until the queue takes `grants` at most, or is as small as a queue
    /// can be.
    pub fn within(mut self, grants: u32) -> Self {
        const FEW: u16 = 16;
        const FEWEST: u16 = 4;
        while self.grants() > grants {
            if self.requests <= FEW && self.is_indirect() {
                self.segments = DIRECT_SEGMENTS;
            } else if self.requests > FEWEST {
                self.requests = (self.requests >> 1).max(FEWEST);
            } else {
                break;
            }
        }
        self
    }

    pub fn is_indirect(&self) -> bool {
        self.segments > DIRECT_SEGMENTS
    }

    pub fn bounce_pages(&self) -> usize {
        let persistent =
            if self.is_persistent { usize::from(self.requests).saturating_mul(PERSISTENT_PAGES) } else { 0 };
        BOUNCE_PAGES.max(persistent)
    }

    /// Grants for the pages of buffers: none, where all are copied, of which a range of grants is one nevertheless.
    pub fn buffer_grants(&self) -> u32 {
        let all = u32::from(self.requests).saturating_mul(self.segments.into());
        if self.is_persistent { 1 } else { all }
    }

    fn grants(&self) -> u32 {
        let indirect = if self.is_indirect() { self.requests } else { 0 };
        let ring = 1u32.checked_shl(self.order).unwrap_or(1);
        let pages = (self.bounce_pages() as u32).saturating_add(indirect.into()).saturating_add(ring);
        self.buffer_grants().saturating_add(pages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_shrinks_until_it_is_affordable_or_the_smallest() {
        let all = Shape { handle: 0, order: 1, requests: 64, segments: 32, is_persistent: false };
        for (grants, requests, segments) in [
            (4000, 64, 32),
            (2178, 64, 32),
            (2177, 32, 32),
            (700, 16, 32),
            (593, 16, 11),
            (200, 8, 11),
            (Shape::FEWEST_GRANTS, 4, 11),
            (0, 4, 11),
        ] {
            let shape = all.within(grants);
            assert_eq!((shape.requests, shape.segments), (requests, segments), "{grants}");
            assert!(shape.grants() <= grants.max(Shape::FEWEST_GRANTS), "{grants}");
        }
        for requests in 1..=7 {
            let shape = Shape { requests, ..all }.within(0);
            assert_eq!((shape.requests, shape.segments), (requests.min(4), DIRECT_SEGMENTS));
        }
        let persistent = Shape { is_persistent: true, ..all };
        assert_eq!(persistent.grants(), 1 + 512 + 64 + 2);
    }
}
