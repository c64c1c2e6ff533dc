//! A model of the synthetic interrupt controller (SynIC) and the synthetic timers.

use super::bus::Controller;
use super::page::{put_message, set_event};
use super::violations::Violations;
use crate::Memory;
use hyperv_bindings::tlfs::{
    HvMessage, HvMessageHeader, HvMessageType, HvMsr, HvPageFlags, HvScontrolFlags, HvSintFlags,
    HvStimerFlags, HvTimerMessage,
};
use hyperv_bindings::vmbus::VMBUS_SINT;
use std::collections::{BTreeSet, VecDeque};
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
    /// Messages that wait for their slots, by SINT.
    waiting: VecDeque<(u32, HvMessage)>,
}

/// The SynICs of all processors.
pub(crate) struct Synic {
    memory: Memory,
    processors: Vec<Vp>,
    /// Pending interrupts: processor and descriptor.
    pub raised: VecDeque<(u32, u8)>,
    pub violations: Violations,
    /// The number of end-of-message writes.
    pub eoms: u64,
}

impl Synic {
    pub fn new(memory: Memory, processors: u32) -> Self {
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
        Self {
            memory,
            processors: (0..processors).rev().map(vp).collect(),
            raised: VecDeque::new(),
            violations: Violations::default(),
            eoms: 0,
        }
    }

    pub fn vp_index(&self, processor: u32) -> u32 {
        self.processors[processor as usize].index
    }

    /// Returns the processor whose VP index is `index`.
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

/// Returns the address of a message or event page, if its register enables it.
fn page(register: u64) -> Option<u64> {
    (register & HvPageFlags::ENABLE.bits() != 0).then_some(register & !0xfff)
}

impl Synic {
    pub fn write(&mut self, processor: u32, index: u32, value: u64) {
        let vp = &mut self.processors[processor as usize];
        match HvMsr(index) {
            HvMsr::SCONTROL => vp.control = value,
            HvMsr::SIMP => vp.simp = value,
            HvMsr::SIEFP => vp.siefp = value,
            HvMsr::EOM => {
                self.eoms += 1;
                self.deliver(processor);
            }
            HvMsr(at) if (HvMsr::SINT0.0..=HvMsr::SINT15.0).contains(&at) => {
                let is_masked = value & HvSintFlags::MASKED.bits() != 0;
                vp.sints[(at - HvMsr::SINT0.0) as usize] = value;
                if !is_masked && value & 0xff < 16 {
                    self.violations.note("a source is unmasked with a vector below 16");
                }
            }
            HvMsr(at) if (HvMsr::STIMER0_CONFIG.0..=HvMsr::STIMER3_COUNT.0).contains(&at) => {
                let place = at - HvMsr::STIMER0_CONFIG.0;
                let (config, count) = &mut vp.timers[place as usize / 2];
                if place % 2 == 0 {
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
            _ => self.violations.note("a register is written that is not offered"),
        }
    }

    /// Raises the interrupt of a source.
    fn raise(&mut self, processor: u32, sint: u32) {
        let value = self.processors[processor as usize].sints[sint as usize];
        if value & (HvSintFlags::MASKED.bits() | HvSintFlags::POLLING.bits()) == 0 {
            self.raised.push_back((processor, value as u8));
        }
    }

    /// Queues a message for source `sint` of a processor.
    fn send_message(&mut self, processor: u32, sint: u32, message_type: HvMessageType, payload: &[u8]) {
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
        self.processors[processor as usize].waiting.push_back((sint, message));
        self.deliver(processor);
    }

    /// Delivers queued messages to free slots; an occupied slot gets its pending flag and is checked again.
    fn deliver(&mut self, processor: u32) {
        let vp = &self.processors[processor as usize];
        let is_on = vp.control & HvScontrolFlags::ENABLE.bits() != 0;
        let Some(base) = page(vp.simp).filter(|_| is_on) else { return };
        let mut blocked = BTreeSet::new();
        let waiting = std::mem::take(&mut self.processors[processor as usize].waiting);
        for (sint, message) in waiting {
            if blocked.contains(&sint) || !put_message(&self.memory, base, sint, &message) {
                blocked.insert(sint);
                self.processors[processor as usize].waiting.push_back((sint, message));
                continue;
            }
            self.raise(processor, sint);
        }
    }

    /// Sets an event flag of a processor; raises an interrupt if the flag was clear.
    fn set_event_flag(&mut self, processor: u32, sint: u32, flag: u32) {
        let vp = &self.processors[processor as usize];
        let Some(base) = page(vp.siefp).filter(|_| vp.control & HvScontrolFlags::ENABLE.bits() != 0) else {
            return;
        };
        if set_event(&self.memory, base, sint, flag) {
            self.raise(processor, sint);
        }
    }

    /// Fires the timers that have expired.
    pub fn run_timers(&mut self, now: u64) {
        for processor in 0..self.processors.len() as u32 {
            for index in 0..4u32 {
                let (config, count) = &mut self.processors[processor as usize].timers[index as usize];
                if *config & HvStimerFlags::ENABLE.bits() == 0 || *count > now {
                    continue;
                }
                *config &= !HvStimerFlags::ENABLE.bits();
                let (config, count) = (*config, *count);
                if config & HvStimerFlags::DIRECT.bits() != 0 {
                    self.raised.push_back((processor, (config >> 4) as u8));
                    continue;
                }
                let sint = (config >> 16) as u32 & 15;
                let message = HvTimerMessage {
                    timer_index: index,
                    reserved: 0,
                    expiration_time: count,
                    delivery_time: now,
                };
                self.send_message(processor, sint, HvMessageType::TIMER_EXPIRED, message.as_bytes());
            }
        }
    }
}

impl Controller for Synic {
    fn is_on(&self, vp: u32) -> bool {
        self.in_use().contains(&vp)
    }
    fn send(&mut self, vp: u32, payload: &[u8]) {
        if let Some(processor) = self.processor(vp) {
            self.send_message(processor, VMBUS_SINT, HvMessageType::CHANNEL, payload);
        }
    }
    fn set_flag(&mut self, vp: u32, flag: u32) {
        if let Some(processor) = self.processor(vp) {
            self.set_event_flag(processor, VMBUS_SINT, flag);
        }
    }
}
