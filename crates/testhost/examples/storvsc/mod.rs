//! What a read of 4 KiB costs in the storage driver, on our model of StorVSP: run under callgrind by `cargo xtask bench`.
//!
//! `storvsc-bench read BATCH ROUNDS` knows the type of the queue, `storvsc-dyn-bench read BATCH ROUNDS` only that it is a
//! `dyn BlockQueue`. These are two programs, since the compiler lays out one call site differently where there is another one.
//! The functions named `driver_side` are the driver's, except for what they call by `host_side`.

use paravirt_device::{BlockDevice, BlockQueue, Op, Request};
use paravirt_hyperv::Hypervisor;
use paravirt_platform::DmaSlice;
use paravirt_scsi::{ControllerEvent, Options};
use paravirt_storvsc::{INTERFACE, StorController, StorOptions, StorQueue, StorTransport};
use paravirt_testhost::count::{self, Counting, counted};
use paravirt_testhost::{Guest, HvHost, StorDrive, StorHost};
use paravirt_vmbus::{Guid, Version, Vmbus};

#[global_allocator]
static COUNTING: Counting = Counting;

pub type Buffer = DmaSlice<Guest>;
pub type Queue = StorQueue<Guest, Buffer>;

/// Submits a read into each of `buffers`, and takes them back.
#[inline(always)]
pub fn batch<Q: BlockQueue<Buffer = Buffer> + ?Sized>(queue: &mut Q, buffers: &mut Vec<Buffer>) {
    let batch = buffers.len();
    let mut lba = 0;
    while let Some(into) = buffers.pop() {
        let request = Request::new(lba, Op::Read { lba, into });
        queue.submit(request).map_err(|refused| refused.reason).expect("room");
        lba += 8;
    }
    queue.kick();
    while buffers.len() < batch {
        if let Some(done) = queue.complete().expect("no fault") {
            done.result.expect("read");
            buffers.push(done.buffer.expect("its buffer"));
        }
    }
}

/// Runs `driver_side` as often as the command line says, and prints what it cost beside instructions.
pub fn bench(driver_side: impl Fn(&mut Queue, &mut Vec<Buffer>)) {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok());
    let (Some(batch), Some(rounds)) = (number(1), number(2)) else {
        eprintln!("read BATCH ROUNDS");
        std::process::exit(2);
    };
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
    let mut buffers: Vec<Buffer> =
        (0..batch).map(|_| DmaSlice::alloc(&guest, 4096).expect("memory")).collect();
    let before = host.signals(channel).0;
    for _ in 0..rounds {
        counted(|| driver_side(&mut queue, &mut buffers));
    }
    assert_eq!(buffers.len() as u64, batch);
    let signals = host.signals(channel).0 - before;
    println!("signals={} allocations={}", signals as f64 / rounds as f64, count::allocations());
}
