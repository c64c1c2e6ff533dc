//! With what a device is opened.

/// Options with which a device is opened.
#[derive(Copy, Clone, Debug)]
#[non_exhaustive]
pub struct OpenOptions {
    /// The maximum number of queues (or queue pairs) to use, usually the number of processors.
    pub queues: u16,
    /// The maximum number of entries of a queue, rounded down to a power of two. A queue has fewer if the device supports fewer.
    pub queue_size: u16,
    /// The number of processors over which the interrupts of the queues are distributed, from processor 0 on.
    pub processors: u32,
    /// The maximum number of data segments of a request, for which indirect tables have room.
    pub segments: u16,
}

impl OpenOptions {
    /// Returns the default options: one queue of 1024 entries, interrupts on the first processor, 14 segments.
    pub const fn new() -> Self {
        Self { queues: 1, queue_size: 1024, processors: 1, segments: 14 }
    }

    /// Sets [`queues`](Self::queues).
    #[must_use]
    pub const fn with_queues(self, queues: u16) -> Self {
        Self { queues, ..self }
    }

    /// Sets [`queue_size`](Self::queue_size).
    #[must_use]
    pub const fn with_queue_size(self, queue_size: u16) -> Self {
        Self { queue_size, ..self }
    }

    /// Sets [`processors`](Self::processors).
    #[must_use]
    pub const fn with_processors(self, processors: u32) -> Self {
        Self { processors, ..self }
    }

    /// Sets [`segments`](Self::segments).
    #[must_use]
    pub const fn with_segments(self, segments: u16) -> Self {
        Self { segments, ..self }
    }
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self::new()
    }
}
