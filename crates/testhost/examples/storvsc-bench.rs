//! A read of 4 KiB by storvsc, with the type of the queue known: see the module.

mod storage;
mod storvsc;

use storage::Buffer;
use storvsc::Queue;

#[inline(never)]
fn driver_side_batch(queue: &mut Queue, buffers: &mut Vec<Buffer>) {
    storage::batch(queue, buffers);
}

fn main() {
    storvsc::bench(driver_side_batch);
}
