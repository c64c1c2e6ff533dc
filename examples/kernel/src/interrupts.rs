//! The handlers that are bound to vectors, and the interrupt lines that they share.

use crate::arch::cpu::without_interrupts;
use crate::arch::interrupts::{DEVICE_VECTORS, mask, route as route_to, send_wake};
use crate::smp::{self, MAX_PROCESSORS};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use paravirt_platform::{BindError, InterruptLine, RawHandler, Vector};
use spin::Mutex;

/// The handler of a vector.
struct Slot {
    handler: Mutex<Option<RawHandler>>,
    /// On how many processors the handler runs.
    running: AtomicU32,
    /// The interrupt line that is routed to the vector or shares one, plus 1; or 0.
    line: AtomicU32,
}

/// The vectors whose handlers share an interrupt line, a bit each.
struct Line([AtomicU64; 4]);

/// How a line is routed.
#[derive(Copy, Clone)]
struct Route {
    line: InterruptLine,
    /// The vector that is raised for it.
    head: u32,
}

static SLOTS: [Slot; 256] =
    [const { Slot { handler: Mutex::new(None), running: AtomicU32::new(0), line: AtomicU32::new(0) } }; 256];
static LINES: [Line; 256] = [const { Line([const { AtomicU64::new(0) }; 4]) }; 256];
/// The lines that are routed, by number. Locked with interrupts disabled; handlers do not take it.
static ROUTED: Mutex<[Option<Route>; 256]> = Mutex::new([None; 256]);
static DEVICE_INTERRUPTS: [AtomicU64; MAX_PROCESSORS] = [const { AtomicU64::new(0) }; MAX_PROCESSORS];
static TIMER_INTERRUPTS: AtomicU64 = AtomicU64::new(0);

/// Returns the number of device interrupts so far, on all processors.
pub fn device_interrupts() -> u64 {
    DEVICE_INTERRUPTS.iter().map(|count| count.load(Ordering::Relaxed)).sum()
}

/// Returns the number of device interrupts so far on one processor.
pub fn device_interrupts_on(processor: u32) -> u64 {
    DEVICE_INTERRUPTS.get(processor as usize).map_or(0, |count| count.load(Ordering::Relaxed))
}

/// Returns the number of local timer interrupts so far, on all processors.
pub fn timer_interrupts() -> u64 {
    TIMER_INTERRUPTS.load(Ordering::Relaxed)
}

/// Counts an interrupt of a device, and calls its handlers; called by the entry code with interrupts disabled.
pub fn dispatch(vector: usize) {
    if let Some(count) = DEVICE_INTERRUPTS.get(smp::current() as usize) {
        count.fetch_add(1, Ordering::Relaxed);
    }
    let Some(slot) = SLOTS.get(vector) else { return };
    match slot.line.load(Ordering::Acquire).checked_sub(1) {
        Some(line) => LINES[line as usize & 0xff].vectors().for_each(|vector| call(&SLOTS[vector])),
        None => call(slot),
    }
}

/// Counts an interrupt of a processor's timer.
pub fn count_timer() {
    TIMER_INTERRUPTS.fetch_add(1, Ordering::Relaxed);
}

/// Calls the handler of a slot, if it has one.
fn call(slot: &Slot) {
    slot.running.fetch_add(1, Ordering::SeqCst);
    // The lock is held only to copy the handler. `bind` and `unbind` take it with interrupts disabled.
    let handler = *slot.handler.lock();
    if let Some(handler) = handler {
        // SAFETY: the handler is bound: `unbind` waits until it no longer runs.
        unsafe { handler.call() };
    }
    slot.running.fetch_sub(1, Ordering::SeqCst);
}

impl Line {
    fn word(&self, vector: usize) -> (&AtomicU64, u64) {
        (&self.0[vector >> 6 & 3], 1 << (vector & 63))
    }

    /// The vectors whose handlers share the line.
    fn vectors(&self) -> impl Iterator<Item = usize> + '_ {
        let is_member = |vector: &usize| {
            let (word, bit) = self.word(*vector);
            word.load(Ordering::Acquire) & bit != 0
        };
        DEVICE_VECTORS.filter(is_member)
    }

    fn set_member(&self, vector: usize, is_member: bool) {
        let (word, bit) = self.word(vector);
        if is_member {
            word.fetch_or(bit, Ordering::AcqRel)
        } else {
            word.fetch_and(!bit, Ordering::AcqRel)
        };
    }
}

/// Routes an interrupt line to `vector`, which shares it with those that it is routed to already.
pub fn route(line: InterruptLine, vector: Vector) -> Result<(), BindError> {
    without_interrupts(|| {
        let mut routed = ROUTED.lock();
        let number = line.number as usize;
        let (shared, slot) = (LINES.get(number).ok_or(BindError::Unsupported)?, vector.0 as usize & 0xff);
        if routed[number].is_none() {
            route_to(line, vector.0)?;
            routed[number] = Some(Route { line, head: vector.0 });
        }
        // Another vector may be raised for the line: it calls the handlers of all.
        shared.set_member(slot, true);
        SLOTS[slot].line.store(line.number + 1, Ordering::Release);
        Ok(())
    })
}

/// Takes `vector` off the line that it shares: the line is routed to another vector, or masked if there is none.
fn unroute(vector: usize) {
    without_interrupts(|| {
        let mut routed = ROUTED.lock();
        let Some(number) = SLOTS[vector].line.load(Ordering::Acquire).checked_sub(1) else { return };
        let (shared, routed) = (&LINES[number as usize & 0xff], &mut routed[number as usize & 0xff]);
        shared.set_member(vector, false);
        if let Some(Route { line, head }) = *routed
            && head as usize == vector
        {
            *routed = shared.vectors().next().map(|next| Route { line, head: next as u32 });
            match *routed {
                // It was routed before, so it can be again.
                Some(next) => drop(route_to(line, next.head)),
                None => mask(line),
            }
        }
        SLOTS[vector].line.store(0, Ordering::Release);
    });
}

/// Returns the number of vectors that can still be bound.
pub fn free_vectors() -> u32 {
    without_interrupts(|| {
        let device_slots = &SLOTS[DEVICE_VECTORS];
        device_slots.iter().filter(|slot| slot.handler.lock().is_none()).count() as u32
    })
}

/// Binds `handler` to a free vector.
pub fn bind(handler: RawHandler) -> Result<Vector, BindError> {
    without_interrupts(|| {
        for vector in DEVICE_VECTORS {
            let mut bound = SLOTS[vector].handler.lock();
            if bound.is_none() {
                *bound = Some(handler);
                return Ok(Vector(vector as u32));
            }
        }
        Err(BindError::Exhausted)
    })
}

/// Unbinds the handler of `vector`, and waits until it runs on no processor.
pub fn unbind(vector: Vector) {
    if let Some(slot) = SLOTS.get(vector.0 as usize) {
        unroute(vector.0 as usize);
        without_interrupts(|| *slot.handler.lock() = None);
        while slot.running.load(Ordering::SeqCst) > 0 {
            core::hint::spin_loop();
        }
    }
}

/// Wakes `processor` from its wait; does nothing if it is the current one.
pub fn wake(processor: u32) {
    if processor != smp::current() {
        send_wake(smp::id(processor));
    }
}
