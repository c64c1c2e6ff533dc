//! A read of 4 KiB by storvsc through `dyn BlockQueue`: see the module.

mod storage;
mod storvsc;

use paravirt_device::BlockQueue;
use std::hint::black_box;
use storage::Buffer;
use storvsc::Queue;

#[inline(never)]
fn driver_side_batch(queue: &mut dyn BlockQueue<Buffer = Buffer>, buffers: &mut Vec<Buffer>) {
    storage::batch(queue, buffers);
}

fn main() {
    storvsc::bench(|queue: &mut Queue, buffers| driver_side_batch(black_box(queue), buffers));
}
