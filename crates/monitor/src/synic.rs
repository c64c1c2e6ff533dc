//! The synthetic interrupt controllers (SynIC): KVM emulates the registers; this module writes the message and event pages and
//! raises the interrupts.

use crate::machine::SINT_GSI;
use anyhow::Result;
use hyperv_bindings::tlfs::{
    HV_MESSAGE_PAYLOAD, HvMessage, HvMessageHeader, HvMessageType, HvPageFlags, HvScontrolFlags,
};
use hyperv_bindings::vmbus::VMBUS_SINT;
use kvm_ioctls::VmFd;
use paravirt_testhost::{Controller, Memory, put_message, set_event};
use std::collections::VecDeque;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

struct Vp {
    is_on: bool,
    messages: u64,
    events: u64,
    /// Messages that wait for a free slot.
    waiting: VecDeque<HvMessage>,
    line: EventFd,
    /// Signalled by KVM at the end of a message and of the interrupt.
    resample: EventFd,
}

/// The SynICs of all virtual processors.
pub struct Synic {
    memory: Memory,
    vps: Vec<Vp>,
    /// How many interrupts were raised.
    pub interrupts: u64,
}

/// Returns the address of a page, if its register enables it.
fn page(register: u64) -> Option<u64> {
    (register & HvPageFlags::ENABLE.bits() != 0).then_some(register & !0xfff)
}

impl Synic {
    pub fn new(vm: &VmFd, memory: Memory, processors: u32) -> Result<Self> {
        let vp = |number| {
            let (line, resample) = (EventFd::new(EFD_CLOEXEC)?, EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?);
            // KVM reports the end of a message and of the interrupt by the resample event.
            vm.register_irqfd_with_resample(&line, &resample, SINT_GSI + number)?;
            Ok(Vp { is_on: false, messages: 0, events: 0, waiting: VecDeque::new(), line, resample })
        };
        Ok(Self { memory, vps: (0..processors).map(vp).collect::<Result<_>>()?, interrupts: 0 })
    }

    /// Returns each processor's event for the end of messages and interrupts.
    pub fn resample_events(&self) -> impl Iterator<Item = &EventFd> {
        self.vps.iter().map(|vp| &vp.resample)
    }

    /// Stores the values of the three registers after the guest has written one of them.
    pub fn set_registers(&mut self, vp: u32, control: u64, events: u64, messages: u64) {
        let Some(state) = self.vps.get_mut(vp as usize) else { return };
        for (old, new) in [(state.events, events), (state.messages, messages)] {
            // An overlay page is zero at first; KVM does not clear it.
            if let Some(page) = page(new).filter(|_| old != new) {
                self.memory.write(page, &[0; 4096]);
            }
        }
        (state.events, state.messages) = (events, messages);
        state.is_on = control & HvScontrolFlags::ENABLE.bits() != 0;
        self.deliver(vp);
    }

    /// Handles the end of a message or interrupt on `vp`.
    pub fn on_resample(&mut self, vp: u32) {
        if let Some(state) = self.vps.get(vp as usize) {
            // The read fails only if the event was read already.
            let _ = state.resample.read();
        }
        self.deliver(vp);
    }

    /// Delivers waiting messages while the slot is free.
    fn deliver(&mut self, vp: u32) {
        let Some(state) = self.vps.get_mut(vp as usize) else { return };
        let Some(page) = page(state.messages).filter(|_| state.is_on) else { return };
        while let Some(message) = state.waiting.front() {
            if !put_message(&self.memory, page, VMBUS_SINT, message) {
                return;
            }
            state.waiting.pop_front();
            self.interrupts += 1;
            // The write fails only at a count of 2^64 - 1.
            let _ = state.line.write(1);
        }
    }
}

impl Controller for Synic {
    fn is_on(&self, vp: u32) -> bool {
        let is_ready = |vp: &Vp| vp.is_on && page(vp.messages).is_some() && page(vp.events).is_some();
        self.vps.get(vp as usize).is_some_and(is_ready)
    }

    fn send(&mut self, vp: u32, payload: &[u8]) {
        let Some(state) = self.vps.get_mut(vp as usize) else { return };
        let payload_size = payload.len().min(HV_MESSAGE_PAYLOAD as usize) as u8;
        let header = HvMessageHeader {
            message_type: HvMessageType::CHANNEL,
            payload_size,
            flags: 0,
            reserved: 0,
            sender: 1,
        };
        let mut message = HvMessage { header, payload: [0; HV_MESSAGE_PAYLOAD as usize] };
        message.payload[..payload_size.into()].copy_from_slice(&payload[..payload_size.into()]);
        state.waiting.push_back(message);
        self.deliver(vp);
    }

    fn set_flag(&mut self, vp: u32, flag: u32) {
        let Some(state) = self.vps.get(vp as usize).filter(|vp| vp.is_on) else { return };
        let Some(page) = page(state.events) else { return };
        if set_event(&self.memory, page, VMBUS_SINT, flag) {
            self.interrupts += 1;
            let _ = state.line.write(1);
        }
    }
}
