//! A read of 4 KiB by storvsc through `dyn BlockQueue`: see the module.

mod storvsc;

use paravirt_device::BlockQueue;
use std::hint::black_box;
use storvsc::{Buffer, Queue};

#[inline(never)]
fn driver_side_batch(queue: &mut dyn BlockQueue<Buffer = Buffer>, buffers: &mut Vec<Buffer>) {
    storvsc::batch(queue, buffers);
}

fn main() {
    storvsc::bench(|queue: &mut Queue, buffers| driver_side_batch(black_box(queue), buffers));
}
