//! The other processors: started, then waiting for work.

use super::acpi::MAX_PROCESSORS;
use super::interrupts::PerProcessor;
use super::{acpi, apic, interrupts, time};
use crate::{boot, memory};
use alloc::boxed::Box;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};
use core::time::Duration;
use paravirt_platform::{ProcessorId, RunError};

/// Where the trampoline goes if that is RAM, as it is where no firmware is in the way; else the first page of RAM between that of
/// address 0 and what was a BIOS's.
const TRAMPOLINE: u64 = 0x8000;
const LOW: core::ops::Range<u64> = 0x1000..0xa_0000;
const STACK_LEN: usize = 128 << 10;

/// What a processor is asked to do: the work, and whether it is done.
struct Job {
    work: *mut (dyn FnMut() + Send),
    done: AtomicBool,
    by: u32,
}

static JOBS: [AtomicPtr<Job>; MAX_PROCESSORS] =
    [const { AtomicPtr::new(core::ptr::null_mut()) }; MAX_PROCESSORS];
static APIC_IDS: [AtomicU32; MAX_PROCESSORS] = [const { AtomicU32::new(0) }; MAX_PROCESSORS];
static RUNNING: AtomicU32 = AtomicU32::new(1);
static STARTING: AtomicU32 = AtomicU32::new(0);
static IS_UP: AtomicBool = AtomicBool::new(false);

/// The processor that this runs on.
pub fn current() -> u32 {
    if RUNNING.load(Ordering::Relaxed) == 1 && !IS_UP.load(Ordering::Relaxed) {
        return 0;
    }
    let id = apic::id();
    (0..count()).find(|processor| apic_id(*processor) == id).unwrap_or(0)
}

/// How many processors run.
pub fn count() -> u32 {
    RUNNING.load(Ordering::Acquire)
}

pub fn apic_id(processor: u32) -> u32 {
    APIC_IDS.get(processor as usize).map_or(0, |id| id.load(Ordering::Relaxed))
}

/// Starts every processor that the MADT names, up to `limit` with this one. `ram` is what firmware says that RAM is.
pub fn start(limit: u32, ram: &[boot::Memory]) {
    let is_ram = |page: u64| ram.iter().any(|range| range.start <= page && page + 4096 <= range.end);
    let mut pages = core::iter::once(TRAMPOLINE).chain(LOW.step_by(4096));
    let Some(trampoline) = pages.find(|page| is_ram(*page)) else {
        log::warn!("there is no RAM below 1 MiB to start other processors in");
        return;
    };
    let this = apic::id();
    APIC_IDS[0].store(this, Ordering::Relaxed);
    let (code, cr3_at) = boot::trampoline();
    // SAFETY: the page is RAM below 1 MiB that nobody uses, mapped one to one.
    unsafe {
        (trampoline as *mut u8).copy_from_nonoverlapping(code.as_ptr(), code.len());
        ((trampoline as usize + cr3_at) as *mut u32).write_unaligned(memory::paging::root() as u32);
    }
    for id in acpi::processors().into_iter().flatten().filter(|id| *id != this) {
        let number = count();
        if number >= limit.min(MAX_PROCESSORS as u32) {
            break;
        }
        APIC_IDS[number as usize].store(id, Ordering::Relaxed);
        STARTING.store(number, Ordering::Release);
        let stack = Box::leak(alloc::vec![0u8; STACK_LEN].into_boxed_slice());
        let top = stack.as_ptr_range().end as u64 & !15;
        // SAFETY: one processor starts at a time, and reads it when it does.
        unsafe { (&raw mut boot::processor_stack).write_volatile(top) }
        apic::send_init(id);
        wait_for(Duration::from_millis(10), || false);
        for _ in 0..2 {
            apic::send_startup(id, (trampoline >> 12) as u8);
            if wait_for(Duration::from_millis(200), || count() > number) {
                break;
            }
        }
        if !wait_for(Duration::from_secs(2), || count() > number) {
            log::warn!("processor with APIC id {id} did not start");
            break;
        }
    }
    IS_UP.store(true, Ordering::Release);
}

fn wait_for(at_most: Duration, is_done: impl Fn() -> bool) -> bool {
    let end = time::now().saturating_add(at_most);
    while time::now() < end {
        if is_done() {
            return true;
        }
        core::hint::spin_loop();
    }
    is_done()
}

/// Called by the trampoline, on a stack of its own.
#[unsafe(no_mangle)]
extern "C" fn rust_processor() -> ! {
    let number = STARTING.load(Ordering::Acquire);
    Box::leak(Box::new(PerProcessor::new())).install();
    let _ = apic::init();
    RUNNING.store(number + 1, Ordering::Release);
    loop {
        x86_64::instructions::interrupts::disable();
        if !serve() {
            x86_64::instructions::interrupts::enable_and_hlt();
        }
    }
}

/// Does what this processor is asked to do, with interrupts on, which it leaves on; whether there was anything, else nothing
/// is changed. What is asked of the first processor is done when it sleeps.
pub fn serve() -> bool {
    let job = JOBS[current() as usize].swap(core::ptr::null_mut(), Ordering::AcqRel);
    if job.is_null() {
        return false;
    }
    x86_64::instructions::interrupts::enable();
    // SAFETY: who asked keeps the job until it is done.
    unsafe {
        (*(*job).work)();
        let by = (*job).by;
        (*job).done.store(true, Ordering::Release);
        interrupts::wake(by);
    }
    true
}

/// Runs `work` on `processor`, and waits for it.
pub fn run_on(processor: ProcessorId, work: &mut (dyn FnMut() + Send)) -> Result<(), RunError> {
    if processor.0 >= count() {
        return Err(RunError);
    }
    if processor.0 == current() {
        work();
        return Ok(());
    }
    run_all_on(core::iter::once((processor.0, work)), || ());
    Ok(())
}

/// Runs each `work` on its processor, at once, and `mine` here meanwhile; waits for all.
pub fn run_all_on<'a>(works: impl Iterator<Item = (u32, &'a mut (dyn FnMut() + Send))>, mine: impl FnOnce()) {
    let by = current();
    let mut jobs = alloc::vec::Vec::new();
    for (processor, work) in works {
        // SAFETY: the lifetime is forgotten, but this does not return before the work is done.
        let work = unsafe {
            core::mem::transmute::<*mut (dyn FnMut() + Send + 'a), *mut (dyn FnMut() + Send)>(work)
        };
        jobs.push((processor, Box::new(Job { work, done: AtomicBool::new(false), by })));
    }
    for (processor, job) in &jobs {
        JOBS[*processor as usize].store(&raw const **job as *mut Job, Ordering::Release);
        interrupts::wake(*processor);
    }
    mine();
    for (_, job) in &jobs {
        loop {
            x86_64::instructions::interrupts::disable();
            if job.done.load(Ordering::Acquire) {
                x86_64::instructions::interrupts::enable();
                break;
            }
            x86_64::instructions::interrupts::enable_and_hlt();
        }
    }
}
