//! Hyper-V on 64-bit ARM, in process: registers by hypercalls that this test decodes, hypercalls without a page, and a disk on VMBus.

use hyperv_bindings::tlfs::{HvCpuidLeaf, HvMsr};
use paravirt_device::{BlockDevice, BlockQueue, Op, Request};
use paravirt_hyperv::arm64::{FUNCTION, VpRegisters};
use paravirt_hyperv::{Hypervisor, OpenError};
use paravirt_platform::{
    AllocError, DmaSlice, HyperV, Instant, Interrupts, Platform, Processors, RawDma, Registers,
};
use paravirt_scsi::{ControllerEvent, Options};
use paravirt_storvsc::{INTERFACE, StorController, StorOptions, StorTransport};
use paravirt_testhost::{Guest, HvHost, StorDrive, StorHost};
use paravirt_vmbus::{Version, Vmbus};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};

type Call = Box<dyn Fn([u64; 8]) -> [u64; 8] + Send + Sync>;

/// A guest that reaches the hypervisor by HVC alone.
#[derive(Clone)]
struct Arm {
    guest: Guest,
    registers: Arc<VpRegisters<Call>>,
    /// The registers that were read and written, by name.
    names: Arc<Mutex<Vec<u64>>>,
}

const SUCCESS: u64 = 0;
const INVALID_PARAMETER: u64 = 5;

/// The number on x86-64 of the register with this name, as the specification pairs them.
fn number(name: u64) -> Option<u32> {
    Some(match name {
        0x210..=0x214 => HvMsr::CRASH_P0.0 + (name - 0x210) as u32,
        0x215 => HvMsr::CRASH_CTL.0,
        0x90002 => HvMsr::GUEST_OS_ID.0,
        0x90003 => HvMsr::VP_INDEX.0,
        0x90004 => HvMsr::TIME_REF_COUNT.0,
        0x90017 => HvMsr::REFERENCE_TSC.0,
        0xa0000..=0xa000f => HvMsr::SINT0.0 + (name - 0xa0000) as u32,
        0xa0010 => HvMsr::SCONTROL.0,
        0xa0012 => HvMsr::SIEFP.0,
        0xa0013 => HvMsr::SIMP.0,
        0xa0014 => HvMsr::EOM.0,
        _ => return None,
    })
}

/// Executes the hypercalls on registers: one repetition, fast, of this partition and this processor.
fn on_register(
    guest: &Guest,
    [function, control, partition, vp, name, zero, low, high]: [u64; 8],
) -> [u64; 8] {
    assert_eq!((function, partition, vp, zero), (0x4600_0001, u64::MAX, 0xffff_fffe, 0));
    assert_eq!(control >> 16, 0x1_0001, "not fast, or not one repetition: {control:#x}");
    let mut answer = [SUCCESS, control, partition, vp, name, 0, 0, 0];
    let leaf = match name {
        0x200 => Some(HvCpuidLeaf::FEATURES),
        0x201 => Some(HvCpuidLeaf::RECOMMENDATIONS),
        _ => None,
    };
    match (control & 0xffff, leaf, number(name)) {
        (0x50, Some(leaf), _) => {
            let [a, b, c, d] = guest.registers().cpuid(leaf.0).map(u64::from);
            (answer[6], answer[7]) = (a | b << 32, c | d << 32);
        }
        // SAFETY: the registers are the model's.
        (0x50, _, Some(index)) => answer[6] = unsafe { guest.registers().read_msr(index) },
        (0x51, _, Some(index)) => {
            assert_eq!(high, 0);
            // SAFETY: as above.
            unsafe { guest.registers().write_msr(index, low) }
        }
        _ => answer[0] = INVALID_PARAMETER,
    }
    answer
}

impl Arm {
    fn new(guest: &Guest) -> Self {
        let names = Arc::new(Mutex::new(vec![]));
        let (model, seen) = (guest.clone(), names.clone());
        let call: Call = Box::new(move |arguments| {
            seen.lock().expect("names").push(arguments[4]);
            on_register(&model, arguments)
        });
        // SAFETY: the call is executed by the model.
        let registers = Arc::new(unsafe { VpRegisters::new(call) });
        Self { guest: guest.clone(), registers, names }
    }
}

// SAFETY: everything but registers and hypercalls is the guest's.
unsafe impl Platform for Arm {
    fn dma_alloc(&self, pages: NonZeroUsize) -> Result<RawDma, AllocError> {
        self.guest.dma_alloc(pages)
    }
    unsafe fn dma_free(&self, region: RawDma) {
        // SAFETY: by the contract of this function.
        unsafe { self.guest.dma_free(region) }
    }
    fn now(&self) -> Instant {
        self.guest.now()
    }
    fn relax(&self) {
        self.guest.relax();
    }
    fn interrupts(&self) -> &dyn Interrupts {
        &self.guest
    }
    fn processors(&self) -> &dyn Processors {
        &self.guest
    }
    fn registers(&self) -> &dyn Registers {
        &*self.registers
    }
    fn hyperv(&self) -> &dyn HyperV {
        self
    }
}

// SAFETY: hypercalls are executed by the model.
unsafe impl HyperV for Arm {
    fn hypercall_page(&self) -> Option<RawDma> {
        panic!("a page is asked for, although calls are made by an instruction")
    }
    unsafe fn free_hypercall_page(&self, _page: RawDma) {}
    fn calls_by_instruction(&self) -> bool {
        true
    }
    unsafe fn hypercall(&self, page: *const u8, control: u64, input: u64, output: u64) -> u64 {
        assert!(page.is_null());
        // SAFETY: by the contract of this function.
        unsafe { self.guest.hyperv().hypercall(page, control, input, output) }
    }
}

#[test]
fn a_disk_is_read_with_registers_by_hypercalls() {
    let mut medium = vec![0; 1 << 20];
    medium[3 * 512..][..10].copy_from_slice(b"block no 3");
    let drives = StorHost::new();
    drives.insert(0, StorDrive::memory(512, medium.clone()));
    let guest = Guest::with(2, true);
    let (host, _) = HvHost::with_device(&guest, INTERFACE, drives);
    host.set_arm();
    let arm = Arm::new(&guest);
    assert_eq!(FUNCTION, 0x4600_0001);

    let hypervisor = Hypervisor::open(&arm).expect("a hypervisor");
    assert_ne!(host.os_id(), 0);
    let vmbus = Vmbus::connect(&hypervisor, Version::NEWEST).expect("a bus");
    let mut offer = None;
    vmbus.offers(&mut |found| offer = Some(*found).filter(|found| found.interface == INTERFACE));
    let offer = offer.expect("a controller");
    let transport = StorTransport::new(&arm, &vmbus, &offer, &StorOptions::default());
    let mut controller = StorController::open(&arm, transport, &Options::default()).expect("open");
    let Some(ControllerEvent::Added(mut disk)) = controller.poll() else { panic!("no disk") };
    let mut queue = disk.take_queue(0).expect("a queue");
    let into = DmaSlice::alloc(&arm, 512).expect("memory");
    queue.submit(Request::new(7, Op::Read { lba: 3, into })).expect("room");
    queue.kick();
    let done = loop {
        match queue.complete().expect("no fault") {
            Some(done) => break done,
            None => arm.relax(),
        }
    };
    assert_eq!(done.result, Ok(()));
    assert_eq!(done.buffer.expect("a buffer").bytes(), &medium[3 * 512..][..512]);

    // Identity, control, both pages and the source of each processor were set by their names.
    let names = arm.names.lock().expect("names").clone();
    for name in [0x200, 0x90002, 0xa0010, 0xa0012, 0xa0013, 0xa0002] {
        assert!(names.contains(&name), "{name:#x} was not used: {names:#x?}");
    }
    drop((queue, disk, controller, vmbus, hypervisor));
    assert_eq!(host.os_id(), 0);
    assert!(host.processors_in_use().is_empty());
    assert!(host.violations().is_empty(), "{:?}", host.violations());
    assert_eq!(guest.pages(), 0, "memory leaked");
}

#[test]
fn a_crash_is_reported_by_registers() {
    let guest = Guest::with(1, true);
    let host = HvHost::new(&guest, paravirt_testhost::HvOffer::default());
    host.set_arm();
    let arm = Arm::new(&guest);
    let hypervisor = Hypervisor::open(&arm).expect("a hypervisor");
    assert!(hypervisor.report_crash([1, 2, 3, 4, 5], Some("lost")));
    let crash = host.crashes().pop().expect("a report");
    assert_eq!((crash.values[..3].to_vec(), crash.text.as_deref()), (vec![1, 2, 3], Some("lost")));
}

#[test]
fn without_a_hypervisor_that_answers_nothing_is_opened() {
    let guest = Guest::with(1, true);
    let mut arm = Arm::new(&guest);
    let refuse: Call = Box::new(|[_, rest @ ..]| {
        let [a, b, c, d, e, f, g] = rest;
        [2, a, b, c, d, e, f, g]
    });
    // SAFETY: it calls nothing.
    arm.registers = Arc::new(unsafe { VpRegisters::new(refuse) });
    assert_eq!(Hypervisor::open(&arm).err(), Some(OpenError::Unsupported));
}
