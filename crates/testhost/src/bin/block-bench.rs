//! What a read costs in the block driver whose type is known where it is called: run under callgrind by `cargo xtask bench`.
//!
//! `block-bench block BATCH ROUNDS`. A program of its own, since the compiler lays out one call site differently where there is
//! another one.

use paravirt_device::{BlockQueue, Op, Request};
use paravirt_platform::DmaSlice;
use paravirt_testhost::Guest;
use paravirt_testhost::bench::{self, Disk, DiskQueue, Part, host_side_keep, host_side_take};
use paravirt_testhost::count::{Counting, counted};

#[global_allocator]
static COUNTING: Counting = Counting;

type Buffer = DmaSlice<Guest>;

/// The driver, open.
struct Block {
    disk: Disk,
    queue: DiskQueue,
}

#[inline(never)]
fn driver_side_submit(queue: &mut DiskQueue, buffers: &mut Vec<Buffer>, size: u64) {
    for tag in 0..size {
        let into = host_side_take(buffers);
        let op = Op::Read { lba: tag * 8, into };
        assert!(queue.submit(Request::new(tag, op)).is_ok());
    }
    queue.kick();
}

#[inline(never)]
fn driver_side_complete(queue: &mut DiskQueue, buffers: &mut Vec<Buffer>, size: u64) {
    for _ in 0..size {
        let done = queue.complete().expect("no fault").expect("done");
        assert!(done.result.is_ok());
        host_side_keep(buffers, done.buffer);
    }
}

impl Part for Block {
    fn batch(&mut self, size: u64) {
        let Self { disk, queue } = self;
        counted(|| driver_side_submit(queue, &mut disk.buffers, size));
        assert_eq!(u64::from(disk.device.serve()), size);
        counted(|| driver_side_complete(queue, &mut disk.buffers, size));
    }
    fn kicks(&self) -> u64 {
        self.disk.registers.kicks(0)
    }
}

fn main() {
    bench::main("block-bench block BATCH ROUNDS", |name| {
        let (disk, queue) = Disk::open();
        (name == "block").then(|| Box::new(Block { disk, queue }) as Box<dyn Part>)
    });
}
