//! Our queues alone.

use paravirt_device::Rejected;
use paravirt_platform::{Direction, DmaBuffer, DmaSegments, DmaSlice, Segment};
use paravirt_testhost::bench::{DATA, MinimalDevice, Part, WRITTEN, host_side_keep, host_side_take};
use paravirt_testhost::count::counted;
use paravirt_testhost::{Guest, PackedDevice, QueueState};
use paravirt_virtio::queue::{
    AreaRange, Parts, QueueConfig, RecordQueue, Ring as _, RingFormat, TransferCheck, VirtQueue,
};
use std::hint::black_box;

/// Bytes of a request's header.
const HEADER: u16 = 16;

/// Our queue alone: three buffers a request.
pub struct Ours {
    queue: VirtQueue<Guest, DmaSlice<Guest>, u64>,
    device: Result<MinimalDevice, PackedDevice>,
    /// A buffer that stays in flight: the queue alone is measured, without what a buffer costs.
    data: Segment,
    _buffer: DmaSlice<Guest>,
    kicks: u64,
}

impl Ours {
    pub fn new(indirect: u16, packed: bool) -> Self {
        let guest = Guest::new();
        let mut config = QueueConfig::new(256);
        config.format = if packed { RingFormat::Packed } else { RingFormat::Split };
        (config.event_idx, config.indirect, config.area) = (true, indirect, 64);
        let mut queue = VirtQueue::new(&guest, config).expect("a queue");
        let state = QueueState { addresses: queue.addresses(), generation: 1 };
        let device = match packed {
            false => Ok({
                // SAFETY: the queue, which this value keeps, is split there.
                unsafe { MinimalDevice::new(|at| guest.host(at), &state.addresses, WRITTEN) }
            }),
            true => Err(PackedDevice::new(&guest, &state, true)),
        };
        let mut buffer = DmaSlice::alloc(&guest, DATA as usize).expect("memory");
        let data = buffer.submit(Direction::FromDevice).expect("a buffer").as_slice()[0];
        Self { queue, device, data, _buffer: buffer, kicks: 0 }
    }

    #[inline(never)]
    fn driver_side_submit(&mut self, size: u64) {
        let (header, status) = ([AreaRange::new(0, HEADER)], [AreaRange::new(32, 1)]);
        for tag in 0..size {
            // SAFETY: the buffer is in flight as long as this value lives.
            let data = unsafe { DmaSegments::new(std::slice::from_ref(&self.data), Direction::FromDevice) };
            let parts = Parts::around(&header, &status);
            assert!(self.queue.submit_segments(parts, data, tag, |_, _| Ok(())).is_ok());
        }
        if self.queue.publish() {
            self.kicks += 1;
        }
    }

    #[inline(never)]
    fn driver_side_complete(&mut self, size: u64) {
        for _ in 0..size {
            assert!(self.queue.pop().expect("no fault").is_some());
        }
    }
}

impl Part for Ours {
    fn batch(&mut self, size: u64) {
        counted(|| self.driver_side_submit(size));
        match &mut self.device {
            Ok(device) => assert_eq!(u64::from(device.serve()), size),
            Err(device) => {
                while let Some(chain) = device.pop() {
                    device.push(chain.id, chain.entries, WRITTEN);
                }
            }
        }
        counted(|| self.driver_side_complete(size));
    }
    fn kicks(&self) -> u64 {
        self.kicks
    }
}

/// Our queue for requests with records alone: a header, data, a status, in indirect tables.
pub struct Records {
    queue: RecordQueue<Guest, DmaSlice<Guest>, u64>,
    device: MinimalDevice,
    buffers: Vec<DmaSlice<Guest>>,
    kicks: u64,
}

/// A device that takes anything.
struct Anything;

impl TransferCheck for Anything {
    #[inline(always)]
    fn one(&self, _len: u32) -> Result<(), Rejected> {
        Ok(())
    }
    fn segments(&self, _segments: &[Segment]) -> Result<(), Rejected> {
        Ok(())
    }
}

impl Records {
    pub fn new() -> Self {
        let guest = Guest::new();
        let mut queue = RecordQueue::new(&guest, 256, 1, true).expect("a queue");
        // SAFETY: the queue, which this value keeps, is split there.
        let device = unsafe { MinimalDevice::new(|at| guest.host(at), &queue.addresses(), WRITTEN) };
        let mut buffers = vec![];
        DmaSlice::alloc_many(&guest, 64, DATA as usize, |slice| buffers.push(slice)).expect("memory");
        Self { queue, device, buffers, kicks: 0 }
    }

    #[inline(never)]
    fn driver_side_submit(&mut self, size: u64) {
        for tag in 0..size {
            let buffer = host_side_take(&mut self.buffers);
            let header = [black_box(0), tag];
            assert!(self.queue.submit(header, buffer, Direction::FromDevice, tag, Anything).is_ok());
        }
        if self.queue.publish() {
            self.kicks += 1;
        }
    }

    #[inline(never)]
    fn driver_side_complete(&mut self, size: u64) {
        for _ in 0..size {
            let used = self.queue.pop().expect("no fault").expect("used");
            host_side_keep(&mut self.buffers, used.buffer);
        }
    }
}

impl Part for Records {
    fn batch(&mut self, size: u64) {
        counted(|| self.driver_side_submit(size));
        assert_eq!(u64::from(self.device.serve()), size);
        counted(|| self.driver_side_complete(size));
    }
    fn kicks(&self) -> u64 {
        self.kicks
    }
}
