//! A read of 4 KiB by storvsc, with the type of the queue known: see the module.

mod storvsc;

use storvsc::{Buffer, Queue};

#[inline(never)]
fn driver_side_batch(queue: &mut Queue, buffers: &mut Vec<Buffer>) {
    storvsc::batch(queue, buffers);
}

fn main() {
    storvsc::bench(driver_side_batch);
}
