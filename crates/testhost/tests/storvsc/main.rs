//! The storvsc driver and the SCSI layer against our model of StorVSP.

mod faults;
mod odd_hosts;
mod requests;
mod sharing;
mod threads;

use hyperv_bindings::storvsp::{StorvspOperation, StorvspVersion};
use hyperv_bindings::vmbus::VmbusMessageType;
use paravirt_device::{
    Access, Arm, BlockDevice, BlockEvent, BlockQueue, Blocking, Cache, Completion, Durability, Fault,
    IoError, Notify, Op, Refused, Rejected, Request, Unmap,
};
use paravirt_hyperv::Hypervisor;
use paravirt_platform::{
    BusAddr, Direction, DmaBuffer, DmaSegments, DmaSlice, Instant, Platform, Segment, SubmitError,
};
use paravirt_scsi::{Address, ControllerEvent, Options};
use paravirt_storvsc::{
    IDE_INTERFACE, INTERFACE, StorController, StorDisk, StorOptions, StorQueue, StorTransport,
};
use paravirt_testhost::{Guest, HvHost, HvOffer, OfferSettings, Said, StorDrive, StorHost, Verdict, Wakes};
use paravirt_vmbus::{Guid, Version, Vmbus};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

type Buffer = DmaSlice<Guest>;
type Disk = StorDisk<Guest, Buffer>;
type Queue = StorQueue<Guest, Buffer>;
type Controller = StorController<Guest, Buffer>;

const ONE: Options = Options::new(1, 128);
const NOWHERE: Guid = Guid([0; 16]);

/// A guest with a controller, and its host.
struct Bench {
    guest: Guest,
    host: HvHost,
    storage: StorHost,
    vmbus: Vmbus<Guest>,
    channel: u32,
}

impl Bench {
    fn with(interface: Guid, instance: Guid, prepare: impl FnOnce(&StorHost)) -> Self {
        Self::by(Version::NEWEST, interface, instance, prepare)
    }

    fn by(newest: Version, interface: Guid, instance: Guid, prepare: impl FnOnce(&StorHost)) -> Self {
        let guest = Guest::with(2, true);
        let host = HvHost::new(&guest, HvOffer::least());
        let storage = StorHost::new();
        prepare(&storage);
        let settings = OfferSettings { interface, instance, ..OfferSettings::default() };
        let channel = host.add(&guest, settings, storage.clone());
        let hypervisor = Hypervisor::open(&guest).expect("a hypervisor");
        let vmbus = Vmbus::connect(&hypervisor, newest).expect("a connection");
        Self { guest, host, storage, vmbus, channel }
    }

    /// Creates a guest and a host with a disk of 1 MiB at LUN 0.
    fn new() -> Self {
        Self::with(INTERFACE, NOWHERE, |storage| storage.insert(0, disk(512, 1 << 20)))
    }

    fn transport(&self, options: &StorOptions) -> StorTransport<Guest> {
        let offers = {
            let mut offers = vec![];
            self.vmbus.offers(&mut |offer| offers.push(*offer));
            offers
        };
        let primary = offers.iter().find(|offer| offer.subchannel == 0).expect("an offer");
        StorTransport::new(&self.guest, &self.vmbus, primary, options)
    }

    fn open(&self, options: &Options) -> Controller {
        let stor = StorOptions::default().with_processors(2);
        Controller::open(&self.guest, self.transport(&stor), options).expect("a controller")
    }

    /// Opens the controller, its first disk and a queue of the disk.
    fn first(&self) -> (Controller, Disk, Queue) {
        let mut controller = self.open(&ONE);
        let mut disk = added(&mut controller);
        let queue = disk.take_queue(0).expect("a queue");
        self.storage.take_commands();
        (controller, disk, queue)
    }

    fn filled(&self, len: usize, byte: u8) -> Buffer {
        let mut buffer = DmaSlice::alloc(&self.guest, len).expect("memory");
        buffer.bytes_mut().fill(byte);
        buffer
    }

    fn work(&self) {
        self.host.work(&self.guest, self.channel);
    }

    fn is_clean(&self) {
        assert_eq!(self.host.violations(), Vec::<String>::new());
        assert_eq!(self.storage.violations(), Vec::<String>::new());
    }
}

fn disk(block_size: u32, len: usize) -> StorDrive {
    StorDrive::memory(block_size, (0..len).map(|at| (at / 512) as u8).collect())
}

fn tuned(mut drive: StorDrive, tune: impl FnOnce(&mut StorDrive)) -> StorDrive {
    tune(&mut drive);
    drive
}

fn added(controller: &mut Controller) -> Disk {
    match controller.poll() {
        Some(ControllerEvent::Added(disk)) => disk,
        Some(ControllerEvent::Removed(address)) => panic!("{address} was removed"),
        Some(ControllerEvent::Faulted(fault)) => panic!("{fault}"),
        Some(_) | None => panic!("no disk"),
    }
}

fn request(tag: u64, op: Op<Buffer>) -> Request<Buffer> {
    Request::new(tag, op)
}

fn read(tag: u64, lba: u64, into: Buffer) -> Request<Buffer> {
    request(tag, Op::Read { lba, into })
}

fn write(tag: u64, lba: u64, from: Buffer, durability: Durability) -> Request<Buffer> {
    request(tag, Op::Write { lba, from, durability })
}

/// Submits a request, kicks, and returns the completion, which the host sends at once.
fn run(queue: &mut Queue, request: Request<Buffer>) -> Completion<Buffer> {
    queue.submit(request).expect("accepted");
    queue.kick();
    queue.complete().expect("no fault").expect("done")
}
