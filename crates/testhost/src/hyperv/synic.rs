//! The synthetic interrupt controller and the timers, from the host's side.

use super::State;
use crate::Guest;
use hyperv_bindings::tlfs::{
    HV_SLOT_LEN, HvMessage, HvMessageFlags, HvMessageHeader, HvMessageType, HvMsr, HvPageFlags,
    HvPrivilegeFlags, HvScontrolFlags, HvSintFlags, HvStimerFlags, HvTimerMessage,
};
use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering, fence};
use zerocopy::IntoBytes;

const SINTS: usize = 16;

#[derive(Clone)]
struct Vp {
    index: u32,
    control: u64,
    simp: u64,
    siefp: u64,
    sints: [u64; SINTS],
    timers: [(u64, u64); 4],
    /// Messages that wait for their slots.
    waiting: VecDeque<(u32, HvMessage)>,
}

/// The controllers of all processors.
pub(crate) struct Synic {
    processors: Vec<Vp>,
    /// How often end-of-message was written.
    pub eoms: u64,
}

impl Synic {
    pub fn new(processors: u32) -> Self {
        let vp = |index| Vp {
            index,
            control: 0,
            simp: 0,
            siefp: 0,
            sints: [HvSintFlags::MASKED.bits(); SINTS],
            timers: [(0, 0); 4],
            waiting: VecDeque::new(),
        };
        // The last processor has index 0.
        Self { processors: (0..processors).rev().map(vp).collect(), eoms: 0 }
    }

    pub fn vp_index(&self, processor: u32) -> u32 {
        self.processors[processor as usize].index
    }

    /// The processor that has `index`.
    pub fn processor(&self, index: u32) -> Option<u32> {
        self.processors.iter().position(|vp| vp.index == index).map(|place| place as u32)
    }

    pub fn is_in_use(&self) -> bool {
        let is_on = |vp: &Vp| vp.control & 1 != 0 || (vp.simp | vp.siefp) & 1 != 0;
        self.processors.iter().any(is_on)
    }

    pub fn in_use(&self) -> BTreeSet<u32> {
        let is_on = |vp: &&Vp| vp.control & 1 != 0 && vp.simp & 1 != 0 && vp.siefp & 1 != 0;
        self.processors.iter().filter(is_on).map(|vp| vp.index).collect()
    }

    pub fn read(&self, processor: u32, index: u32) -> Option<u64> {
        let vp = &self.processors[processor as usize];
        Some(match HvMsr(index) {
            HvMsr::SCONTROL => vp.control,
            HvMsr::SVERSION => 1,
            HvMsr::SIMP => vp.simp,
            HvMsr::SIEFP => vp.siefp,
            HvMsr(at) if (HvMsr::SINT0.0..=HvMsr::SINT15.0).contains(&at) => {
                vp.sints[(at - HvMsr::SINT0.0) as usize]
            }
            _ => return None,
        })
    }
}

pub(crate) fn write(state: &mut State, guest: &Guest, processor: u32, index: u32, value: u64) {
    let vp = &mut state.synic.processors[processor as usize];
    match HvMsr(index) {
        HvMsr::SCONTROL => vp.control = value,
        HvMsr::SIMP => vp.simp = value,
        HvMsr::SIEFP => vp.siefp = value,
        HvMsr::EOM => {
            state.synic.eoms += 1;
            deliver(state, guest, processor);
        }
        HvMsr(at) if (HvMsr::SINT0.0..=HvMsr::SINT15.0).contains(&at) => {
            let is_masked = value & HvSintFlags::MASKED.bits() != 0;
            vp.sints[(at - HvMsr::SINT0.0) as usize] = value;
            if !is_masked && value & 0xff < 16 {
                state.violation("a source is unmasked with a vector below 16");
            }
        }
        HvMsr(at) if (HvMsr::STIMER0_CONFIG.0..=HvMsr::STIMER3_COUNT.0).contains(&at) => {
            let place = at - HvMsr::STIMER0_CONFIG.0;
            let (config, count) = &mut vp.timers[place as usize / 2];
            if place.is_multiple_of(2) {
                *config = value;
            } else {
                *count = value;
                let is_auto = *config & HvStimerFlags::AUTO_ENABLE.bits() != 0;
                match value {
                    0 => *config &= !HvStimerFlags::ENABLE.bits(),
                    _ if is_auto => *config |= HvStimerFlags::ENABLE.bits(),
                    _ => {}
                }
            }
        }
        _ => panic!("register {index:#x} is written, which is not offered"),
    }
}

/// Where a message or a flag goes: the address of a page, if it is enabled.
fn page(register: u64) -> Option<u64> {
    (register & HvPageFlags::ENABLE.bits() != 0).then_some(register & !0xfff)
}

/// Raises the interrupt of a source.
fn raise(state: &mut State, processor: u32, sint: u32) {
    let value = state.synic.processors[processor as usize].sints[sint as usize];
    if value & (HvSintFlags::MASKED.bits() | HvSintFlags::POLLING.bits()) == 0 {
        state.raised.push_back((processor, value as u8));
    }
}

/// Sends a message to the source of a processor.
pub(crate) fn send(
    state: &mut State,
    guest: &Guest,
    processor: u32,
    sint: u32,
    message_type: HvMessageType,
    payload: &[u8],
) {
    let mut message = HvMessage {
        header: HvMessageHeader {
            message_type,
            payload_size: payload.len() as u8,
            flags: 0,
            reserved: 0,
            sender: 1,
        },
        payload: [0; 240],
    };
    message.payload[..payload.len()].copy_from_slice(payload);
    state.synic.processors[processor as usize].waiting.push_back((sint, message));
    deliver(state, guest, processor);
}

/// Puts the next messages into the slots that are free; a slot that is not gets its flag, and then another look.
fn deliver(state: &mut State, guest: &Guest, processor: u32) {
    let vp = &state.synic.processors[processor as usize];
    let is_on = vp.control & HvScontrolFlags::ENABLE.bits() != 0;
    let Some(base) = page(vp.simp).filter(|_| is_on) else { return };
    let mut blocked = BTreeSet::new();
    let waiting = std::mem::take(&mut state.synic.processors[processor as usize].waiting);
    for (sint, message) in waiting {
        let at = base + u64::from(sint * HV_SLOT_LEN);
        // SAFETY: the page is guest memory, which lives as long as the guest, and is seen as atomics by both sides.
        let (kind, flags) =
            unsafe { (&*guest.host(at).cast::<AtomicU32>(), &*guest.host(at + 5).cast::<AtomicU8>()) };
        let is_free = |kind: &AtomicU32| kind.load(Ordering::Acquire) == HvMessageType::NONE.0;
        if !blocked.contains(&sint) && !is_free(kind) {
            flags.fetch_or(HvMessageFlags::PENDING.bits(), Ordering::SeqCst);
            fence(Ordering::SeqCst);
        }
        if blocked.contains(&sint) || !is_free(kind) {
            blocked.insert(sint);
            state.synic.processors[processor as usize].waiting.push_back((sint, message));
            continue;
        }
        guest.write(at + 4, &message.as_bytes()[4..]);
        kind.store(message.header.message_type.0, Ordering::Release);
        raise(state, processor, sint);
    }
}

/// Sets an event flag of a processor; an interrupt comes of a flag that was not set.
pub(crate) fn set_flag(state: &mut State, guest: &Guest, processor: u32, sint: u32, flag: u32) {
    let vp = &state.synic.processors[processor as usize];
    let Some(base) = page(vp.siefp).filter(|_| vp.control & HvScontrolFlags::ENABLE.bits() != 0) else {
        return;
    };
    let at = base + u64::from(sint * HV_SLOT_LEN) + u64::from(flag / 64 * 8);
    // SAFETY: as in `deliver`.
    let word = unsafe { &*guest.host(at).cast::<AtomicU64>() };
    if word.fetch_or(1 << (flag % 64), Ordering::SeqCst) & 1 << (flag % 64) == 0 {
        raise(state, processor, sint);
    }
}

pub(crate) fn run_timers(state: &mut State, guest: &Guest) {
    let now = guest.reference_time();
    for processor in 0..state.synic.processors.len() as u32 {
        for index in 0..4u32 {
            let (config, count) = &mut state.synic.processors[processor as usize].timers[index as usize];
            if *config & HvStimerFlags::ENABLE.bits() == 0 || *count > now {
                continue;
            }
            *config &= !HvStimerFlags::ENABLE.bits();
            let (config, count) = (*config, *count);
            if config & HvStimerFlags::DIRECT.bits() != 0 {
                state.raised.push_back((processor, (config >> 4) as u8));
                continue;
            }
            let sint = (config >> 16) as u32 & 15;
            let message = HvTimerMessage {
                timer_index: index,
                reserved: 0,
                expiration_time: count,
                delivery_time: now,
            };
            send(state, guest, processor, sint, HvMessageType::TIMER_EXPIRED, message.as_bytes());
        }
    }
    if !state.offer.privileges.contains(HvPrivilegeFlags::STIMER) {
        state.violation("timers of a host that has none");
    }
}
