//! Symmetric multiprocessing: starts the other processors, which then wait for jobs.

use super::acpi::MAX_PROCESSORS;
use super::interrupts::PerProcessor;
use super::{acpi, apic, interrupts, time};
use crate::{boot, memory};
use alloc::boxed::Box;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};
use core::time::Duration;
use paravirt_platform::{ProcessorId, RunError};

/// The preferred address of the trampoline. If firmware uses the page, the first page of RAM in [`LOW`] is used instead.
const TRAMPOLINE: u64 = 0x8000;
/// Conventional memory without its first page.
const LOW: core::ops::Range<u64> = 0x1000..0xa_0000;
const STACK_LEN: usize = 128 << 10;

/// A closure that another processor runs.
struct Job {
    work: *mut (dyn FnMut() + Send),
    done: AtomicBool,
    /// The processor to wake when it is done.
    by: u32,
}

/// The pending job of each processor, or null.
static JOBS: [AtomicPtr<Job>; MAX_PROCESSORS] =
    [const { AtomicPtr::new(core::ptr::null_mut()) }; MAX_PROCESSORS];
/// The APIC id of each processor that runs.
static APIC_IDS: [AtomicU32; MAX_PROCESSORS] = [const { AtomicU32::new(0) }; MAX_PROCESSORS];
/// How many processors run.
static RUNNING: AtomicU32 = AtomicU32::new(1);
/// The number of the processor that is being started.
static STARTING: AtomicU32 = AtomicU32::new(0);
/// Whether all processors were started.
static IS_UP: AtomicBool = AtomicBool::new(false);

/// Returns the number of the current processor.
pub fn current() -> u32 {
    if RUNNING.load(Ordering::Relaxed) == 1 && !IS_UP.load(Ordering::Relaxed) {
        return 0;
    }
    let id = apic::id();
    (0..count()).find(|processor| apic_id(*processor) == id).unwrap_or(0)
}

/// Returns how many processors run.
pub fn count() -> u32 {
    RUNNING.load(Ordering::Acquire)
}

pub fn apic_id(processor: u32) -> u32 {
    APIC_IDS.get(processor as usize).map_or(0, |id| id.load(Ordering::Relaxed))
}

/// Starts the processors in the MADT, up to `limit` including this one. `ram` is the firmware's memory map.
pub fn start(limit: u32, ram: &[boot::Memory]) {
    let is_ram = |page: u64| ram.iter().any(|range| range.start <= page && page + 4096 <= range.end);
    let mut pages = core::iter::once(TRAMPOLINE).chain(LOW.step_by(4096));
    let Some(trampoline) = pages.find(|page| is_ram(*page)) else {
        log::warn!("no free RAM below 1 MiB for the trampoline: other processors are not started");
        return;
    };
    let this = apic::id();
    APIC_IDS[0].store(this, Ordering::Relaxed);
    let (code, cr3_at) = boot::trampoline();
    // SAFETY: the page is unused RAM below 1 MiB, mapped one to one.
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
        // SAFETY: one processor is started at a time, and it reads the value while it starts.
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
            log::warn!("processor with APIC id {id} did not start: it is not used, nor those after it");
            break;
        }
    }
    IS_UP.store(true, Ordering::Release);
    let ignored = acpi::ignored_processors();
    if ignored > 0 {
        log::warn!("processors: {ignored} are not used: the kernel supports {MAX_PROCESSORS}");
    }
}

/// Polls `is_done` until it returns true; returns false after `timeout`.
fn wait_for(timeout: Duration, is_done: impl Fn() -> bool) -> bool {
    let end = time::now().saturating_add(timeout);
    while time::now() < end {
        if is_done() {
            return true;
        }
        core::hint::spin_loop();
    }
    is_done()
}

/// Runs a processor: called by the trampoline, on the stack that [`start`] allocated.
#[unsafe(no_mangle)]
extern "C" fn rust_processor() -> ! {
    let number = STARTING.load(Ordering::Acquire);
    Box::leak(Box::new(PerProcessor::new())).install();
    let _ = apic::init();
    RUNNING.store(number + 1, Ordering::Release);
    loop {
        x86_64::instructions::interrupts::disable();
        if !run_pending_job() {
            x86_64::instructions::interrupts::enable_and_hlt();
        }
    }
}

/// Runs the job that is pending for this processor, with interrupts enabled, and returns true with interrupts still enabled.
/// Returns false and changes nothing if there is none. The first processor runs its jobs in `platform::sleep`.
pub fn run_pending_job() -> bool {
    let job = JOBS[current() as usize].swap(core::ptr::null_mut(), Ordering::AcqRel);
    if job.is_null() {
        return false;
    }
    x86_64::instructions::interrupts::enable();
    // SAFETY: the processor that queued the job keeps it alive until it is done.
    unsafe {
        (*(*job).work)();
        let by = (*job).by;
        (*job).done.store(true, Ordering::Release);
        interrupts::wake(by);
    }
    true
}

/// Runs `work` on `processor` and waits until it is done.
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

/// Runs each closure of `works` on its processor, `local` on the current one at the same time, and waits until all are done.
pub fn run_all_on<'a>(
    works: impl Iterator<Item = (u32, &'a mut (dyn FnMut() + Send))>,
    local: impl FnOnce(),
) {
    let by = current();
    let mut jobs = alloc::vec::Vec::new();
    for (processor, work) in works {
        // SAFETY: the lifetime is erased, but this function does not return before the closure has returned.
        let work = unsafe {
            core::mem::transmute::<*mut (dyn FnMut() + Send + 'a), *mut (dyn FnMut() + Send)>(work)
        };
        jobs.push((processor, Box::new(Job { work, done: AtomicBool::new(false), by })));
    }
    for (processor, job) in &jobs {
        JOBS[*processor as usize].store(&raw const **job as *mut Job, Ordering::Release);
        interrupts::wake(*processor);
    }
    local();
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
