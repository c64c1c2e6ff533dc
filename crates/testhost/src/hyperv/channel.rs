//! Channels: rings, signals, and the device on each channel.

use super::bus::{Bus, CHANNEL_CONNECTIONS, Controller, FAILURE, OfferSettings, header};
use super::devices::{Out, Outbox, VmbusDevice, address};
use super::ring::{HostReader, HostRingMemory, HostWriter};
use crate::Memory;
use hyperv_bindings::tlfs::{HV_EVENT_FLAGS, HvStatus};
use hyperv_bindings::vmbus::*;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A ring in guest memory.
pub(super) struct HostRing {
    _memory: Memory,
    control: *const [AtomicU32; 32],
    data: *const AtomicU64,
    words: usize,
}

// SAFETY: every access goes through atomics.
unsafe impl Send for HostRing {}

impl HostRingMemory for HostRing {
    fn control(&self) -> &[AtomicU32; 32] {
        // SAFETY: the pointer is to guest memory, which `_memory` keeps mapped.
        unsafe { &*self.control }
    }
    fn data(&self) -> &[AtomicU64] {
        // SAFETY: the pointer is to `words` words of guest memory, which `_memory` keeps mapped.
        unsafe { std::slice::from_raw_parts(self.data, self.words) }
    }
}

pub(super) struct Open {
    pub gpadl: u32,
    incoming: HostReader<HostRing>,
    pub outgoing: HostWriter<HostRing>,
    pub vp: u32,
    outbox: Outbox,
    /// The buffer into which packets are copied.
    buffer: Vec<u8>,
}

pub(super) struct Channel {
    pub settings: OfferSettings,
    pub device: Box<dyn VmbusDevice>,
    pub open: Option<Open>,
    pub is_offered: bool,
    pub is_rescinded: bool,
    pub signals: u64,
    pub interrupts: u64,
}

impl Channel {
    pub fn new(settings: OfferSettings, device: Box<dyn VmbusDevice>) -> Self {
        Self {
            settings,
            device,
            open: None,
            is_offered: false,
            is_rescinded: false,
            signals: 0,
            interrupts: 0,
        }
    }
}

/// Returns the ring in pages `from` to `to` of a GPADL; `None` if they are not contiguous, which this model requires.
fn ring(memory: &Memory, frames: &[u64], from: usize, to: usize) -> Option<HostRing> {
    let frames = frames.get(from..to).filter(|frames| frames.len() >= 2)?;
    let is_contiguous = frames.windows(2).all(|pair| pair[0].checked_add(1) == Some(pair[1]));
    let base = address(frames[0], 0)?;
    let at = memory.host(base, frames.len() * 4096).filter(|_| is_contiguous)?;
    let (control, data) = (at.cast(), at.wrapping_add(4096).cast());
    Some(HostRing { _memory: memory.clone(), control, data, words: (frames.len() - 1) * 512 })
}

impl Bus {
    pub(super) fn open(&mut self, synic: &mut dyn Controller, message: &VmbusOpenChannel) {
        let VmbusOpenChannel { channel_id, open_id, .. } = *message;
        if self.channels.get(&channel_id).is_some_and(|channel| channel.is_rescinded) {
            // There is no response.
            return;
        }
        if self.channels.get(&channel_id).is_some_and(|channel| channel.open.is_some()) {
            return self.violation("a channel is opened twice");
        }
        let status = self.try_open(synic, message).err().unwrap_or(0);
        let header = header(VmbusMessageType::OPEN_CHANNEL_RESULT);
        self.say(synic, &VmbusOpenChannelResult { header, channel_id, open_id, status });
        self.work(synic, channel_id);
    }

    /// Opens a channel.
    ///
    /// # Errors
    ///
    /// The status of the open result.
    fn try_open(&mut self, synic: &dyn Controller, message: &VmbusOpenChannel) -> Result<(), u32> {
        let VmbusOpenChannel { channel_id, ring_gpadl_id, target_vp, downstream_page_offset, .. } = *message;
        if !synic.is_on(target_vp) {
            self.violation("a channel for a processor that has no SynIC");
            return Err(FAILURE);
        }
        let status = self.faults.open_status;
        if status != 0 {
            return Err(status);
        }
        let split = downstream_page_offset as usize;
        let gpadl = self.gpadls.get(&ring_gpadl_id).filter(|gpadl| gpadl.channel == channel_id);
        let rings = gpadl.and_then(|gpadl| {
            let incoming = ring(&self.memory, &gpadl.frames, 0, split)?;
            let outgoing = ring(&self.memory, &gpadl.frames, split, gpadl.frames.len())?;
            // The host reads these words when the channel is opened.
            let features =
                incoming.control()[16].load(Ordering::SeqCst) & outgoing.control()[16].load(Ordering::SeqCst);
            (features & 1 != 0).then_some((HostReader::new(incoming).ok()?, HostWriter::new(outgoing).ok()?))
        });
        let (Some((incoming, outgoing)), Some(channel)) = (rings, self.channels.get_mut(&channel_id)) else {
            self.violation("a channel is opened without rings");
            return Err(FAILURE);
        };
        channel.open = Some(Open {
            gpadl: ring_gpadl_id,
            incoming,
            outgoing,
            vp: target_vp,
            outbox: Outbox::default(),
            buffer: vec![],
        });
        channel.device.open();
        Ok(())
    }

    /// Handles a signal of the guest for a channel, or for all channels without a dedicated connection id.
    pub fn signal(&mut self, synic: &mut dyn Controller, connection: u32) -> HvStatus {
        if connection == VMBUS_EVENT_CONNECTION && self.interrupt_page != 0 {
            for at in 0..32u64 {
                let Some(address) = self.interrupt_page.checked_add(2048 + at * 8) else { break };
                let set = self.memory.take_word(address);
                for bit in (0..64).filter(|bit| set & 1 << bit != 0) {
                    self.count_and_work(synic, at as u32 * 64 + bit);
                }
            }
            return HvStatus::SUCCESS;
        }
        let number = connection.wrapping_sub(CHANNEL_CONNECTIONS);
        match self.channels.get(&number) {
            Some(channel) if channel.is_rescinded => HvStatus::INVALID_CONNECTION_ID,
            Some(_) => {
                self.count_and_work(synic, number);
                HvStatus::SUCCESS
            }
            None => HvStatus::INVALID_CONNECTION_ID,
        }
    }

    fn count_and_work(&mut self, synic: &mut dyn Controller, number: u32) {
        if let Some(channel) = self.channels.get_mut(&number) {
            channel.signals += 1;
        }
        self.work(synic, number);
    }

    /// Sends everything that was held back.
    pub fn release_late(&mut self, synic: &mut dyn Controller) {
        for bytes in std::mem::take(&mut self.late) {
            synic.send(self.target, &bytes);
        }
        let numbers: Vec<u32> = self.channels.keys().copied().collect();
        for number in numbers {
            let open = self.channels.get_mut(&number).and_then(|channel| channel.open.as_mut());
            let Some(open) = open.filter(|open| !open.outbox.late.is_empty()) else { continue };
            open.outbox.is_swapped = false;
            let Outbox { waiting, late, .. } = &mut open.outbox;
            waiting.append(late);
            self.work(synic, number);
        }
    }

    /// Serves a device: its primary channel and all subchannels.
    pub fn work_all(&mut self, synic: &mut dyn Controller, primary: u32) {
        let Some(instance) = self.channels.get(&primary).map(|channel| channel.settings.instance) else {
            return;
        };
        let of_it = self.channels.iter().filter(|(_, channel)| channel.settings.instance == instance);
        let numbers: Vec<u32> = of_it.map(|(number, _)| *number).collect();
        numbers.into_iter().for_each(|number| self.work(synic, number));
    }

    /// Serves a channel: receives all packets, and sends what the device has queued.
    pub fn work(&mut self, synic: &mut dyn Controller, number: u32) {
        let Self { channels, gpadls, memory, faults, .. } = self;
        let Some(channel) = channels.get_mut(&number).filter(|channel| !channel.is_rescinded) else { return };
        let Some(open) = &mut channel.open else { return };
        let mut error = None;
        open.incoming.mask();
        let mut must_signal = false;
        loop {
            match open.incoming.next(&mut open.buffer) {
                Ok(Some(packet)) => {
                    let mut out = Out { outbox: &mut open.outbox, gpadls };
                    channel.device.packet(memory, &packet, &mut out);
                }
                Ok(None) if !open.incoming.unmask() => break,
                Ok(None) => {}
                Err(found) => {
                    error = Some(found);
                    break;
                }
            }
        }
        must_signal |= open.incoming.release();
        channel.device.poll(memory, &mut Out { outbox: &mut open.outbox, gpadls });
        open.outbox.admit(&mut faults.judge);
        while let Some(waiting) = open.outbox.waiting.front() {
            if waiting.write(&mut open.outgoing).is_err() {
                must_signal |= open.outgoing.publish();
                if !open.outgoing.await_room(waiting.len()).unwrap_or(false) {
                    break;
                }
                continue;
            }
            open.outbox.waiting.pop_front();
        }
        if open.outbox.waiting.is_empty() {
            open.outgoing.stop_waiting();
        }
        must_signal |= open.outgoing.publish();
        let vp = open.vp;
        let further = std::mem::take(&mut open.outbox.further);
        channel.interrupts += u64::from(must_signal);
        if let Some(error) = error {
            self.violation(format!("the guest's ring: {error}"));
        }
        if must_signal {
            let page = self.interrupt_page;
            if page == 0 {
                synic.set_flag(vp, number);
            } else if number < HV_EVENT_FLAGS {
                if let Some(address) = page.checked_add(u64::from(number / 64 * 8)) {
                    self.memory.set_bits(address, 1 << (number % 64));
                }
                synic.set_flag(self.target, 0);
            }
        }
        if further > 0 {
            self.offer_further(synic, number, further);
        }
    }
}
