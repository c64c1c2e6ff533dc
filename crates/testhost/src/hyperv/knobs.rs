//! Controls for tests: devices, fault injection, and counters.

use super::HvHost;
use super::bus::{Controller, Faults, OfferSettings};
use super::channel::Channel;
use super::devices::VmbusDevice;
use super::ring::HostRingMemory;
use super::socket::SocketEnd;
use crate::Guest;
use hyperv_bindings::Guid;
use std::sync::atomic::{AtomicU32, AtomicU64};

impl HvHost {
    /// Adds a device to the bus and returns the number of its channel. A connected guest receives the offer.
    pub fn add(&self, guest: &Guest, settings: OfferSettings, device: impl VmbusDevice + 'static) -> u32 {
        self.with(guest, |state| state.bus.add(&mut state.synic, settings, Box::new(device)))
    }

    /// Accepts the next connection of the guest to `port` with `end` as the host's end.
    pub fn listen(&self, guest: &Guest, port: u32, end: &SocketEnd) {
        self.with(guest, |state| state.bus.listen(port, end.clone()));
    }

    /// Connects to `port` of the guest and returns the number of the channel.
    pub fn connect(&self, guest: &Guest, port: u32, end: &SocketEnd) -> u32 {
        self.with(guest, |state| state.bus.connect(&mut state.synic, port, end.clone()))
    }

    /// Serves all open channels.
    pub fn work_on_all(&self, guest: &Guest) {
        self.with(guest, |state| {
            let channels: Vec<u32> = state.bus.channels.keys().copied().collect();
            channels.into_iter().for_each(|channel| state.bus.work(&mut state.synic, channel));
        });
    }

    /// Rescinds a channel.
    pub fn rescind(&self, guest: &Guest, channel: u32) {
        self.with(guest, |state| state.bus.rescind(&mut state.synic, channel));
    }

    /// Changes the fault injection settings of the bus.
    pub fn faults(&self, guest: &Guest, change: impl FnOnce(&mut Faults)) {
        self.with(guest, |state| state.bus.faults(change));
    }

    /// Sends `bytes` as a VMBus message.
    pub fn say(&self, guest: &Guest, bytes: &[u8]) {
        self.with(guest, |state| {
            state.synic.send(state.bus.target, bytes);
        });
    }

    /// Sends the delayed messages, after `arrange` may have reordered them.
    pub fn deliver(&self, guest: &Guest, arrange: impl FnOnce(&mut Vec<Vec<u8>>)) {
        self.with(guest, |state| {
            let mut messages: Vec<Vec<u8>> = state.bus.delayed.drain(..).collect();
            arrange(&mut messages);
            for bytes in messages {
                state.synic.send(state.bus.target, &bytes);
            }
        });
    }

    /// Sends everything that was held back.
    pub fn release_late(&self, guest: &Guest) {
        self.with(guest, |state| state.bus.release_late(&mut state.synic));
    }

    /// Serves a channel, so that its device can send.
    pub fn work(&self, guest: &Guest, channel: u32) {
        self.with(guest, |state| state.bus.work(&mut state.synic, channel));
    }

    /// Calls `change` with the control words and data of an open channel's ring to the guest.
    pub fn scribble(&self, guest: &Guest, channel: u32, change: impl FnOnce(&[AtomicU32; 32], &[AtomicU64])) {
        self.with(guest, |state| {
            let channel = state.bus.channels.get(&channel);
            if let Some(open) = channel.and_then(|channel| channel.open.as_ref()) {
                let ring = open.outgoing.memory();
                change(ring.control(), ring.data());
            }
        });
    }

    /// Returns how often the guest has signalled the host on this channel, and the host the guest.
    pub fn signals(&self, channel: u32) -> (u64, u64) {
        let state = self.0.lock().expect("the host");
        state.bus.channels.get(&channel).map_or((0, 0), |channel| (channel.signals, channel.interrupts))
    }

    /// Returns the number of channel `index` of device `instance`, if it is on the bus.
    pub fn channel(&self, instance: Guid, index: u16) -> Option<u32> {
        let state = self.0.lock().expect("the host");
        let is_wanted = |channel: &Channel| {
            let settings = &channel.settings;
            settings.instance == instance && settings.subchannel == index && !channel.is_rescinded
        };
        state.bus.channels.iter().find(|(_, channel)| is_wanted(channel)).map(|(number, _)| *number)
    }

    /// Returns whether the channel is on the bus: a rescinded one is removed when the guest releases it.
    pub fn has(&self, channel: u32) -> bool {
        self.0.lock().expect("the host").bus.channels.contains_key(&channel)
    }

    /// Returns whether the guest has opened the channel.
    pub fn is_open(&self, channel: u32) -> bool {
        let state = self.0.lock().expect("the host");
        state.bus.channels.get(&channel).is_some_and(|channel| channel.open.is_some())
    }

    /// Returns the number of GPADLs, and the number of pages of all of them.
    pub fn gpadls(&self) -> (usize, usize) {
        let state = self.0.lock().expect("the host");
        (state.bus.gpadls.len(), state.bus.gpadls.values().map(|gpadl| gpadl.frames.len()).sum())
    }

    /// Returns the number of channels that were offered, and not released by the guest after a rescind.
    pub fn channels(&self) -> usize {
        self.0.lock().expect("the host").bus.channels.len()
    }

    /// Returns the versions that the guest has proposed, and the negotiated one.
    pub fn versions(&self) -> (Vec<u32>, u32) {
        let state = self.0.lock().expect("the host");
        (state.bus.contacts.clone(), state.bus.version)
    }

    /// Returns the number of messages that the guest has posted, and of its end-of-message writes.
    pub fn counts(&self) -> (u64, u64) {
        let state = self.0.lock().expect("the host");
        (state.bus.posts, state.synic.eoms)
    }
}
