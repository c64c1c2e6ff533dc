//! What a read of 4 KiB costs in the storage driver, on our model of StorVSP: run under callgrind by `cargo xtask bench`.
//!
//! `storvsc-bench read BATCH ROUNDS` knows the type of the queue, `storvsc-dyn-bench read BATCH ROUNDS` only that it is a
//! `dyn BlockQueue`. These are two programs, since the compiler lays out one call site differently where there is another one.
//! The functions named `driver_side` are the driver's, except for what they call by `host_side`.

use super::storage::{self, Buffer};
use paravirt_device::BlockDevice;
use paravirt_hyperv::Hypervisor;
use paravirt_scsi::{ControllerEvent, Options};
use paravirt_storvsc::{INTERFACE, StorController, StorOptions, StorQueue, StorTransport};
use paravirt_testhost::count::Counting;
use paravirt_testhost::{Guest, HvHost, StorDrive, StorHost};
use paravirt_vmbus::{Guid, Version, Vmbus};

#[global_allocator]
static COUNTING: Counting = Counting;

pub type Queue = StorQueue<Guest, Buffer>;

/// Runs `driver_side` as often as the command line says, and prints what it cost beside instructions.
pub fn bench(driver_side: impl Fn(&mut Queue, &mut Vec<Buffer>)) {
    let words = storage::words();
    let guest = Guest::with(1, true);
    let storage = StorHost::new();
    storage.insert(0, StorDrive::memory(512, vec![7; 1 << 20]));
    let (host, channel) = HvHost::with_device(&guest, INTERFACE, storage);
    let hypervisor = Hypervisor::open(&guest).expect("a hypervisor");
    let vmbus = Vmbus::connect(&hypervisor, Version::NEWEST).expect("a connection");
    let offer = vmbus.find(&Guid::default(), 0).expect("an offer");
    let adapter = StorTransport::new(&guest, &vmbus, &offer, &StorOptions::default());
    let mut controller =
        StorController::<Guest, Buffer>::open(&guest, adapter, &Options::default()).expect("open");
    let Some(ControllerEvent::Added(mut disk)) = controller.poll() else { panic!("no disk") };
    let mut queue = disk.take_queue(0).expect("a queue");
    storage::run(&guest, words, &mut queue, || host.signals(channel).0, driver_side);
}
