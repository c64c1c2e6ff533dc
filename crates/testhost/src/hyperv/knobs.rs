//! What a test does with the host.

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
    /// Puts a device on the bus; the number of its channel. Where the guest is there, it is told.
    pub fn add(&self, guest: &Guest, settings: OfferSettings, device: impl VmbusDevice + 'static) -> u32 {
        self.with(guest, |state| state.bus.add(&mut state.synic, settings, Box::new(device)))
    }

    /// Lets `end` be the host's end of the next socket to `port`.
    pub fn listen(&self, guest: &Guest, port: u32, end: &SocketEnd) {
        self.with(guest, |state| state.bus.listen(port, end.clone()));
    }

    /// Connects to `port` of the guest; the number of the channel.
    pub fn connect(&self, guest: &Guest, port: u32, end: &SocketEnd) -> u32 {
        self.with(guest, |state| state.bus.connect(&mut state.synic, port, end.clone()))
    }

    /// Serves all channels that are open.
    pub fn work_on_all(&self, guest: &Guest) {
        self.with(guest, |state| {
            let channels: Vec<u32> = state.bus.channels.keys().copied().collect();
            channels.into_iter().for_each(|channel| state.bus.work(&mut state.synic, channel));
        });
    }

    /// Takes a channel back.
    pub fn rescind(&self, guest: &Guest, channel: u32) {
        self.with(guest, |state| state.bus.rescind(&mut state.synic, channel));
    }

    /// Changes how the host misbehaves.
    pub fn faults(&self, guest: &Guest, change: impl FnOnce(&mut Faults)) {
        self.with(guest, |state| state.bus.faults(change));
    }

    /// Sends `bytes` as a message.
    pub fn say(&self, guest: &Guest, bytes: &[u8]) {
        self.with(guest, |state| {
            state.synic.send(state.bus.target, bytes);
        });
    }

    /// Sends what was delayed, in the order that `arrange` makes.
    pub fn deliver(&self, guest: &Guest, arrange: impl FnOnce(&mut Vec<Vec<u8>>)) {
        self.with(guest, |state| {
            let mut messages: Vec<Vec<u8>> = state.bus.delayed.drain(..).collect();
            arrange(&mut messages);
            for bytes in messages {
                state.synic.send(state.bus.target, &bytes);
            }
        });
    }

    /// Serves a channel, as when its device has something to say.
    pub fn work(&self, guest: &Guest, channel: u32) {
        self.with(guest, |state| state.bus.work(&mut state.synic, channel));
    }

    /// Lets `change` write the rings of an open channel as it likes: the ring to the guest.
    pub fn scribble(&self, guest: &Guest, channel: u32, change: impl FnOnce(&[AtomicU32; 32], &[AtomicU64])) {
        self.with(guest, |state| {
            let channel = state.bus.channels.get(&channel);
            if let Some(open) = channel.and_then(|channel| channel.open.as_ref()) {
                let ring = open.outgoing.memory();
                change(ring.control(), ring.data());
            }
        });
    }

    /// How often the guest has signalled the channel, and the host the guest.
    pub fn signals(&self, channel: u32) -> (u64, u64) {
        let state = self.0.lock().expect("the host");
        state.bus.channels.get(&channel).map_or((0, 0), |channel| (channel.signals, channel.interrupts))
    }

    /// The number of channel `index` of the device `instance`, while it is on the bus.
    pub fn channel(&self, instance: Guid, index: u16) -> Option<u32> {
        let state = self.0.lock().expect("the host");
        let is_wanted = |channel: &Channel| {
            let settings = &channel.settings;
            settings.instance == instance && settings.subchannel == index && !channel.is_rescinded
        };
        state.bus.channels.iter().find(|(_, channel)| is_wanted(channel)).map(|(number, _)| *number)
    }

    /// Whether the channel is still on the bus: a rescinded one goes when the guest releases it.
    pub fn has(&self, channel: u32) -> bool {
        self.0.lock().expect("the host").bus.channels.contains_key(&channel)
    }

    /// Whether the guest has the channel open.
    pub fn is_open(&self, channel: u32) -> bool {
        let state = self.0.lock().expect("the host");
        state.bus.channels.get(&channel).is_some_and(|channel| channel.open.is_some())
    }

    /// GPADLs that the host may use, and the pages of all of them.
    pub fn gpadls(&self) -> (usize, usize) {
        let state = self.0.lock().expect("the host");
        (state.bus.gpadls.len(), state.bus.gpadls.values().map(|gpadl| gpadl.frames.len()).sum())
    }

    /// The versions that the guest has proposed, and the one that is spoken.
    pub fn versions(&self) -> (Vec<u32>, u32) {
        let state = self.0.lock().expect("the host");
        (state.bus.contacts.clone(), state.bus.version)
    }

    /// Messages of the guest's, and how often it has written end-of-message.
    pub fn counts(&self) -> (u64, u64) {
        let state = self.0.lock().expect("the host");
        (state.bus.posts, state.synic.eoms)
    }
}
