//! What a read of 4 KiB costs in the driver of VMware's SCSI adapter, on our model of it, with the type of the queue known: run under
//! callgrind by `cargo xtask bench`. The function named `driver_side` is the driver's, except for what it calls by `host_side`.

mod storage;

use paravirt_device::BlockDevice;
use paravirt_pvscsi::{PvscsiAdapter, PvscsiController, PvscsiOptions, PvscsiQueue};
use paravirt_scsi::{ControllerEvent, Options};
use paravirt_testhost::count::Counting;
use paravirt_testhost::{Guest, PvscsiHost, StorDrive};
use storage::Buffer;

#[global_allocator]
static COUNTING: Counting = Counting;

#[inline(never)]
fn driver_side_batch(queue: &mut PvscsiQueue<Guest, Buffer>, buffers: &mut Vec<Buffer>) {
    storage::batch(queue, buffers);
}

fn main() {
    let words = storage::words();
    let guest = Guest::with(1, true);
    let host = PvscsiHost::new(&guest);
    host.insert(0, StorDrive::memory(512, vec![7; 1 << 20]));
    let adapter =
        PvscsiAdapter::new(&guest, host.device(), 0, &PvscsiOptions::default()).expect("an adapter");
    let mut controller =
        PvscsiController::<Guest, Buffer>::open(&guest, adapter, &Options::default()).expect("open");
    let Some(ControllerEvent::Added(mut disk)) = controller.poll() else { panic!("no disk") };
    let mut queue = disk.take_queue(0).expect("a queue");
    let kicks = || host.kicks().iter().map(|kicks| u64::from(*kicks)).sum();
    storage::run(&guest, words, &mut queue, kicks, driver_side_batch);
}
