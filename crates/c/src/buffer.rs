use core::ffi::c_void;
use paravirt_platform::{Direction, DmaBuffer, DmaSegments, Segment, SubmitError};

/// A contiguous part of a buffer.
#[repr(C)]
#[derive(Copy, Clone, Debug)]
pub struct paravirt_segment {
    /// The bus address of the first byte: a physical address, without an IOMMU.
    pub bus: u64,
    /// The length in bytes, at least 1.
    pub len: u32,
}

/// Memory of the kernel's that a device reads or writes. From the call that accepts it until a completion returns it, it belongs to the
/// device: the kernel neither accesses nor frees the memory or the segments.
#[repr(C)]
#[derive(Copy, Clone, Debug)]
pub struct paravirt_buffer {
    /// `count` segments, in the order of the bytes; they do not overlap.
    pub segments: *const paravirt_segment,
    /// The number of segments: at most `max_segments` of a disk, and `paravirt_options.segments` of another device.
    pub count: usize,
    /// The kernel's own, returned with the completion.
    pub owner: *mut c_void,
    /// Whether the segments are alone in their pages of 4096 bytes: Xen's backends are given whole pages, and none of other buffers, which
    /// are refused.
    pub owns_pages: bool,
}

/// A buffer of the kernel's.
#[derive(Debug)]
pub(crate) struct Buffer {
    kernel: paravirt_buffer,
    is_in_flight: bool,
}

// Both are `repr(C)`.
const _: () = assert!(size_of::<Segment>() == size_of::<paravirt_segment>());

// SAFETY: the kernel promises that its memory may be used from any processor while it is in flight.
unsafe impl Send for Buffer {}

impl Buffer {
    /// # Safety
    ///
    /// The contract of [`paravirt_buffer`] holds.
    pub(crate) unsafe fn new(kernel: paravirt_buffer) -> Self {
        Self { kernel, is_in_flight: false }
    }

    pub(crate) fn owner(&self) -> *mut c_void {
        self.kernel.owner
    }
}

// SAFETY: by the contract of `paravirt_buffer`, the memory is valid and left alone until a completion returns it. Dropping this frees
// nothing.
unsafe impl DmaBuffer for Buffer {
    fn submit(&mut self, direction: Direction) -> Result<DmaSegments<'_>, SubmitError> {
        if self.is_in_flight {
            return Err(SubmitError::InFlight);
        }
        let segments = match self.kernel.count {
            0 => &[],
            _ if self.kernel.segments.is_null() => &[],
            // SAFETY: by the contract there are as many segments, of the same layout, which the kernel leaves alone.
            count => unsafe { core::slice::from_raw_parts(self.kernel.segments.cast::<Segment>(), count) },
        };
        if segments.is_empty() || segments.iter().any(|segment| segment.len == 0) {
            return Err(SubmitError::Length);
        }
        self.is_in_flight = true;
        // SAFETY: by the contract the memory belongs to the device until `reclaim`.
        Ok(unsafe { DmaSegments::new(segments, direction) })
    }

    unsafe fn reclaim(&mut self) {
        self.is_in_flight = false;
    }

    fn owns_pages(&self) -> bool {
        self.kernel.owns_pages
    }
}
