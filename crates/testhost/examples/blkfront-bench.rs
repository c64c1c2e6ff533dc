//! What a read of 4 KiB costs in the driver of Xen's disks, on our model of Xen, with the type of the queue known: run under callgrind by
//! `cargo xtask bench`. The function named `driver_side` is the driver's, except for what it calls by `host_side`.

mod storage;

use paravirt_blkfront::{BlkFront, BlkFrontOptions, BlkFrontQueue};
use paravirt_device::BlockDevice;
use paravirt_testhost::count::Counting;
use paravirt_testhost::{Guest, XenDisk, XenHost};
use paravirt_xen::bus::{Address, Class};
use paravirt_xen::{Hypervisor, Store};
use storage::Buffer;

#[global_allocator]
static COUNTING: Counting = Counting;

#[inline(never)]
fn driver_side_batch(queue: &mut BlkFrontQueue<Guest, Buffer>, buffers: &mut Vec<Buffer>) {
    storage::batch(queue, buffers);
}

fn main() {
    let words = storage::words();
    let guest = Guest::with(1, true);
    let host = XenHost::new(&guest);
    host.add_disk(51712, XenDisk::new(vec![7; 1 << 20]));
    let store = Store::open(&Hypervisor::open(&guest).expect("Xen")).expect("xenstore");
    let address = Address { class: Class::Block, id: 51712 };
    let mut disk = BlkFront::<Guest, Buffer>::open(&store, address, &BlkFrontOptions::new()).expect("a disk");
    let mut queue = disk.take_queue(0).expect("a queue");
    storage::run(&guest, words, &mut queue, || host.kicks(), driver_side_batch);
}
