//! Our block driver as a kernel calls it.

use paravirt_device::{BlockQueue, Durability, Op, Request};
use paravirt_platform::{DmaSlice, Instant};
use paravirt_testhost::Guest;
use paravirt_testhost::bench::{Disk, Part, host_side_keep, host_side_take};
use paravirt_testhost::count::counted;
use std::hint::black_box;

/// Our block driver behind `dyn BlockQueue`: nothing of it is inlined into its caller. Reads and writes alternate.
pub struct BlockDyn {
    disk: Disk,
    queue: Box<dyn BlockQueue<Buffer = DmaSlice<Guest>>>,
}

impl BlockDyn {
    pub fn new() -> Self {
        let (disk, queue) = Disk::open();
        Self { disk, queue: Box::new(queue) }
    }

    #[inline(never)]
    fn driver_side_submit(&mut self, size: u64) {
        let queue: &mut dyn BlockQueue<Buffer = DmaSlice<Guest>> = black_box(&mut *self.queue);
        for tag in 0..size {
            let buffer = host_side_take(&mut self.disk.buffers);
            let lba = tag * 8;
            let op = match black_box(tag) & 1 {
                0 => Op::Read { lba, into: buffer },
                _ => Op::Write { lba, from: buffer, durability: Durability::Cached },
            };
            assert!(queue.submit(Request::new(tag, op).with_deadline(black_box(Instant::NEVER))).is_ok());
        }
        queue.kick();
    }

    #[inline(never)]
    fn driver_side_complete(&mut self, size: u64) {
        let queue: &mut dyn BlockQueue<Buffer = DmaSlice<Guest>> = black_box(&mut *self.queue);
        for _ in 0..size {
            let done = queue.complete().expect("no fault").expect("done");
            assert!(done.result.is_ok());
            host_side_keep(&mut self.disk.buffers, done.buffer);
        }
    }
}

impl Part for BlockDyn {
    fn batch(&mut self, size: u64) {
        counted(|| self.driver_side_submit(size));
        assert_eq!(u64::from(self.disk.device.serve()), size);
        counted(|| self.driver_side_complete(size));
    }
    fn kicks(&self) -> u64 {
        self.disk.registers.kicks(0)
    }
}
