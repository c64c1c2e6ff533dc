//! Interrupts by a GIC: vectors are the messages that it takes, then those of lines.

use super::gic;
use crate::interrupts::{count_timer, dispatch};
use core::sync::atomic::{AtomicU32, Ordering};
use paravirt_platform::{BindError, InterruptLine, Message, Requester, Trigger, Vector};

/// The vectors that are bound to devices.
pub const DEVICE_VECTORS: core::ops::Range<usize> = 0..256;
/// The interrupts that can be routed, by INTID.
const LINES: usize = 256;
/// Wakes a processor from its wait: an interrupt that processors send each other.
const WAKE: u32 = 0;
/// INTIDs that are none. GICv3 §2.2.1
const NONE: core::ops::Range<u32> = 1020..1024;

/// The vector of each line, plus 1; or 0.
static ROUTED: [AtomicU32; LINES] = [const { AtomicU32::new(0) }; LINES];

/// Handles the pending interrupts; called by the entry code.
pub fn handle() {
    loop {
        let (id, taken) = gic::acknowledge();
        if NONE.contains(&id) {
            return;
        }
        match gic::message_vector(id) {
            _ if id == super::time::INTERRUPT => {
                super::time::set_timer(None);
                count_timer();
            }
            _ if id == WAKE => {}
            Some(vector) => dispatch(vector),
            None => {
                let vector =
                    ROUTED.get(id as usize).and_then(|slot| slot.load(Ordering::Acquire).checked_sub(1));
                vector.into_iter().for_each(|vector| dispatch(vector as usize));
            }
        }
        gic::end(taken);
    }
}

/// Raises `vector` for a line.
pub fn route(line: InterruptLine, vector: u32) -> Result<(), BindError> {
    let slot = ROUTED.get(line.number as usize).ok_or(BindError::Unsupported)?;
    slot.store(vector + 1, Ordering::Release);
    gic::enable(line.number, line.trigger == Trigger::Edge);
    Ok(())
}

/// Ends the interrupts of a line.
pub fn mask(line: InterruptLine) {
    gic::disable(line.number);
    ROUTED.get(line.number as usize).into_iter().for_each(|slot| slot.store(0, Ordering::Release));
}

/// Wakes the processor with this affinity from its wait.
pub fn send_wake(id: u64) {
    gic::send(id, WAKE);
}

/// Returns the message with which the device `from` raises `vector` on the processor with this affinity; `None` if the GIC takes none.
pub fn message(vector: Vector, target: u64, from: Option<Requester>) -> Option<Message> {
    gic::message(vector.0, target, from)
}
