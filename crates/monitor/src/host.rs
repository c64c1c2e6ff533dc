//! VMBus with its devices, served by one thread: the guest's signals, the ends of its messages, the wire and the clock wake it.

use crate::machine::set_door;
use crate::peer::Peer;
use crate::services::{self, Service};
use crate::synic::Synic;
use anyhow::{Context, Result};
use hyperv_bindings::Guid;
use hyperv_bindings::tlfs::{HvHypercallCode, HvHypercallFlags, HvPostMessageInput, HvStatus};
use hyperv_bindings::vmbus::{self, VmbusVersion};
use kvm_ioctls::VmFd;
use paravirt_testhost::{Bus, Memory, NetVspHost, OfferSettings, StorHost, VmbusDevice, WireFrame};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};
use zerocopy::FromBytes;

/// What is added to a channel's number for its event; below are processors.
const CHANNELS: u64 = 1 << 32;
/// How long the thread sleeps at most: then it looks whether the machine has ended.
const NAP: Duration = Duration::from_millis(200);

/// What is put on the bus.
pub struct Devices {
    /// The newest version of VMBus; 0 for all.
    pub newest: VmbusVersion,
    pub disks: Option<StorHost>,
    pub card: Option<(NetVspHost, Peer)>,
    /// Ends the guest when something comes.
    pub shutdown: Option<Receiver<()>>,
}

struct State {
    vm: Arc<VmFd>,
    memory: Memory,
    synic: Synic,
    bus: Bus,
    epoll: Arc<Epoll>,
    doors: BTreeMap<u32, (u32, EventFd)>,
    disks: Option<StorHost>,
    card: Option<(NetVspHost, Peer)>,
    card_channel: u32,
    services: Vec<(u32, Service)>,
    shutdown: Option<Receiver<()>>,
    must_end: bool,
    hypercalls: u64,
    signals: u64,
}

/// The host.
pub struct Host(Mutex<State>);

impl Host {
    pub fn new(vm: Arc<VmFd>, memory: Memory, processors: u32, devices: Devices) -> Result<Self> {
        let synic = Synic::new(&vm, memory.clone(), processors)?;
        let epoll = Arc::new(Epoll::new()?);
        for (vp, end) in synic.ends().enumerate() {
            let event = EpollEvent::new(EventSet::IN, vp as u64);
            epoll.ctl(ControlOperation::Add, end.as_raw_fd(), event)?;
        }
        let mut state = State {
            vm,
            bus: Bus::new(memory.clone()),
            memory,
            synic,
            epoll,
            doors: BTreeMap::new(),
            disks: devices.disks,
            card: devices.card,
            card_channel: 0,
            services: vec![],
            shutdown: devices.shutdown,
            must_end: false,
            hypercalls: 0,
            signals: 0,
        };
        state.bus.faults(|faults| faults.newest = devices.newest.0);
        for (number, (interface, service)) in services::all().into_iter().enumerate() {
            let channel = state.add(interface, number as u8 + 1, true, service.device.clone());
            state.services.push((channel, service));
        }
        if let Some(disks) = state.disks.clone() {
            state.add(vmbus::SCSI, 0x10, false, disks);
        }
        if let Some(card) = state.card.as_ref().map(|(card, _)| card.clone()) {
            state.card_channel = state.add(vmbus::NETWORK, 0x20, false, card);
        }
        state.follow()?;
        Ok(Self(Mutex::new(state)))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A thread that panicked ends the machine; what it held is for the last report only.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The guest has written a register of a controller.
    pub fn written(&self, vp: u32, control: u64, events: u64, messages: u64) {
        self.lock().synic.written(vp, control, events, messages);
    }

    /// A hypercall that KVM leaves to us.
    pub fn hypercall(&self, input: u64, parameter: u64) -> HvStatus {
        let mut state = self.lock();
        let state = &mut *state;
        state.hypercalls += 1;
        let is_fast = input & HvHypercallFlags::FAST.bits() != 0;
        match HvHypercallCode(input as u16) {
            HvHypercallCode::POST_MESSAGE if !is_fast => {
                let bytes = state.memory.read(parameter, size_of::<HvPostMessageInput>());
                let message = HvPostMessageInput::read_from_bytes(&bytes).expect("as many bytes as it has");
                let status = state.bus.post(&mut state.synic, &message);
                match state.follow() {
                    Ok(()) => status,
                    Err(error) => {
                        tell!("{error:#}");
                        HvStatus::INSUFFICIENT_MEMORY
                    }
                }
            }
            // Here the parameter is the value, in either form.
            HvHypercallCode::SIGNAL_EVENT => state.bus.signal(&mut state.synic, parameter as u32),
            _ => HvStatus::INVALID_HYPERCALL_CODE,
        }
    }

    /// Serves the bus until `stop`.
    pub fn serve(&self, stop: &AtomicBool) -> Result<()> {
        let mut events = vec![EpollEvent::default(); 64];
        let epoll = self.lock().epoll.clone();
        while !stop.load(Ordering::Acquire) {
            let delay = self.lock().tick(Instant::now());
            // Rounded up, so that what is due is due when it wakes.
            let timeout = delay.min(NAP).as_micros().div_ceil(1000) as i32;
            let count = match epoll.wait(timeout, &mut events) {
                Err(error) if error.kind() == ErrorKind::Interrupted => 0,
                other => other.context("cannot wait for the guest")?,
            };
            let mut state = self.lock();
            for event in &events[..count] {
                state.woken(event.data());
            }
        }
        Ok(())
    }

    /// What the machine has to say at its end.
    pub fn report(&self) {
        let state = self.lock();
        let wrong = [
            state.bus.violations().to_vec(),
            state.disks.as_ref().map(StorHost::violations).unwrap_or_default(),
            state.card.as_ref().map(|(card, _)| card.violations()).unwrap_or_default(),
            state.services.iter().flat_map(|(_, service)| service.device.violations()).collect(),
        ]
        .concat();
        wrong.iter().for_each(|text| tell!("the guest did wrong: {text}"));
        if state.memory.strays() > 0 {
            eprintln!(
                "monitor: the guest did wrong: {} addresses where there is no memory",
                state.memory.strays()
            );
        }
        let State { hypercalls, signals, synic, .. } = &*state;
        tell!("hypercalls={hypercalls} signals={signals} interrupts={}", synic.interrupts);
    }
}

impl State {
    /// Puts a device on the bus; its channel.
    fn add(&mut self, interface: Guid, number: u8, is_pipe: bool, device: impl VmbusDevice + 'static) -> u32 {
        let mut instance = *b"paravirt-monitor";
        instance[15] = number;
        let settings =
            OfferSettings { interface, instance: Guid(instance), is_pipe, ..OfferSettings::default() };
        self.bus.add(&mut self.synic, settings, Box::new(device))
    }

    /// Gives each channel its door, and takes those of channels that are gone.
    fn follow(&mut self) -> Result<()> {
        let now: BTreeMap<u32, u32> = self.bus.connections().collect();
        let vm = &self.vm;
        let mut result = Ok(());
        self.doors.retain(|channel, (connection, _)| {
            let is_there = now.contains_key(channel);
            if !is_there {
                result = set_door(vm, *connection, None);
            }
            is_there
        });
        for (channel, connection) in now {
            if self.doors.contains_key(&channel) {
                continue;
            }
            let door = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?;
            set_door(vm, connection, Some(door.as_raw_fd()))?;
            let event = EpollEvent::new(EventSet::IN, CHANNELS + u64::from(channel));
            self.epoll.ctl(ControlOperation::Add, door.as_raw_fd(), event)?;
            self.doors.insert(channel, (connection, door));
        }
        result
    }

    fn woken(&mut self, token: u64) {
        let Some(channel) = token.checked_sub(CHANNELS) else { return self.synic.ended(token as u32) };
        if let Some((connection, door)) = self.doors.get(&(channel as u32)) {
            self.signals += door.read().unwrap_or(0);
            self.bus.signal(&mut self.synic, *connection);
        }
    }

    /// Does what is due; how long there is nothing.
    fn tick(&mut self, now: Instant) -> Duration {
        if let Some(shutdown) = &self.shutdown
            && shutdown.try_recv().is_ok()
        {
            self.must_end = true;
        }
        let mut next = NAP;
        for (channel, service) in &mut self.services {
            if service.serve(now, self.must_end) {
                self.bus.work(&mut self.synic, *channel);
            }
            if let Some(due) = service.due() {
                next = next.min(due.saturating_duration_since(now));
            }
        }
        if let Some((card, peer)) = &mut self.card {
            let frames = peer.serve(card.take_frames());
            if !frames.is_empty() {
                for bytes in frames {
                    card.receive_on(0, WireFrame { bytes, info: vec![] });
                }
                self.bus.work(&mut self.synic, self.card_channel);
            }
            if let Some(delay) = peer.delay() {
                next = next.min(delay);
            }
        }
        next
    }
}
