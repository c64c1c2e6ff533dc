//! Symmetric multiprocessing: starts the other processors, which then wait for jobs.

use crate::arch::boot::BootInfo;
use crate::arch::{cpu, processors, time};
use crate::interrupts;
use alloc::boxed::Box;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use core::time::Duration;
use paravirt_platform::{ProcessorId, RunError};

pub const MAX_PROCESSORS: usize = 256;
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
/// The hardware's id of each processor that runs.
static IDS: [AtomicU64; MAX_PROCESSORS] = [const { AtomicU64::new(0) }; MAX_PROCESSORS];
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
    let this = processors::id();
    (0..count()).find(|processor| id(*processor) == this).unwrap_or(0)
}

/// Returns how many processors run.
pub fn count() -> u32 {
    RUNNING.load(Ordering::Acquire)
}

/// Returns the hardware's id of a processor.
pub fn id(processor: u32) -> u64 {
    IDS.get(processor as usize).map_or(0, |id| id.load(Ordering::Relaxed))
}

/// Starts the processors that firmware reports, up to `limit` including this one.
pub fn start(limit: u32, info: &BootInfo) {
    let this = processors::id();
    IDS[0].store(this, Ordering::Relaxed);
    let Some(starter) = processors::Starter::new(info) else { return };
    for id in processors::all().filter(|id| *id != this) {
        let number = count();
        if number >= limit.min(MAX_PROCESSORS as u32) {
            break;
        }
        IDS[number as usize].store(id, Ordering::Relaxed);
        STARTING.store(number, Ordering::Release);
        let stack = Box::leak(alloc::vec![0u8; STACK_LEN].into_boxed_slice());
        starter.start(id, stack.as_ptr_range().end as u64 & !15, &|| count() > number);
        if !wait_for(Duration::from_secs(2), || count() > number) {
            log::warn!("processor with id {id} did not start: it is not used, nor those after it");
            break;
        }
    }
    IS_UP.store(true, Ordering::Release);
    let ignored = processors::ignored();
    if ignored > 0 {
        log::warn!("processors: {ignored} are not used: the kernel supports {MAX_PROCESSORS}");
    }
}

/// Polls `is_done` until it returns true; returns false after `timeout`.
pub fn wait_for(timeout: Duration, is_done: impl Fn() -> bool) -> bool {
    let end = time::now().saturating_add(timeout);
    while time::now() < end {
        if is_done() {
            return true;
        }
        core::hint::spin_loop();
    }
    is_done()
}

/// Runs a processor: called by the entry code, on the stack that [`start`] allocated.
#[unsafe(no_mangle)]
pub extern "C" fn rust_processor() -> ! {
    let number = STARTING.load(Ordering::Acquire);
    processors::init_this();
    RUNNING.store(number + 1, Ordering::Release);
    loop {
        cpu::disable_interrupts();
        if !run_pending_job() {
            cpu::enable_interrupts_and_wait();
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
    cpu::enable_interrupts();
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
            cpu::disable_interrupts();
            if job.done.load(Ordering::Acquire) {
                cpu::enable_interrupts();
                break;
            }
            cpu::enable_interrupts_and_wait();
        }
    }
}
