//! VMBus with its devices, served by one thread: the guest's signals, the ends of its messages, the wire and the clock wake it.

use crate::machine::set_door;
use crate::peer::Peer;
use crate::ports::Wish;
use crate::services::{self, Service};
use crate::synic::Synic;
use crate::typist::Typist;
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
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};
use zerocopy::FromBytes;

/// What is added to a channel's number for its event; below are processors.
const CHANNELS: u64 = 1 << 32;
/// The event of a processor's thread that has something for the one that serves.
const NEWS: u64 = CHANNELS - 1;
/// How long the thread sleeps at most: then it looks whether the machine has ended.
const NAP: Duration = Duration::from_millis(200);

/// What is put on the bus.
pub struct Devices {
    /// The newest version of VMBus; 0 for all.
    pub newest: VmbusVersion,
    pub disks: Option<StorHost>,
    pub card: Option<(NetVspHost, Peer)>,
    pub typist: Option<Typist>,
}

struct State {
    vm: Arc<VmFd>,
    memory: Memory,
    synic: Synic,
    bus: Bus,
    epoll: Arc<Epoll>,
    doors: BTreeMap<u32, (u32, EventFd)>,
    news: EventFd,
    disks: Option<StorHost>,
    card: Option<(NetVspHost, Peer)>,
    card_channel: u32,
    services: Vec<(u32, Service)>,
    typist: Option<(Typist, [u32; 2])>,
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
        let news = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?;
        epoll.ctl(ControlOperation::Add, news.as_raw_fd(), EpollEvent::new(EventSet::IN, NEWS))?;
        let mut state = State {
            vm,
            bus: Bus::new(memory.clone()),
            memory,
            synic,
            epoll,
            doors: BTreeMap::new(),
            news,
            disks: devices.disks,
            card: devices.card,
            card_channel: 0,
            services: vec![],
            typist: None,
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
        if let Some(typist) = devices.typist {
            let keyboard = state.add(vmbus::KEYBOARD, 0x30, false, typist.keyboard.clone());
            let mouse = state.add(vmbus::MOUSE, 0x31, true, typist.mouse.clone());
            state.typist = Some((typist, [keyboard, mouse]));
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
                state.has_worked();
                match state.follow() {
                    Ok(()) => status,
                    Err(error) => {
                        tell!("{error:#}");
                        HvStatus::INSUFFICIENT_MEMORY
                    }
                }
            }
            // Here the parameter is the value, in either form.
            HvHypercallCode::SIGNAL_EVENT => {
                let status = state.bus.signal(&mut state.synic, parameter as u32);
                state.has_worked();
                status
            }
            _ => HvStatus::INVALID_HYPERCALL_CODE,
        }
    }

    /// Does what a user wants, now that the guest has written a text.
    pub fn wish(&self, wish: Wish) {
        let mut state = self.lock();
        let state = &mut *state;
        match (wish, &state.typist) {
            (Wish::Count, _) => tell!("counted {}", state.counts()),
            (Wish::End, _) => {
                state.must_end = true;
                state.has_worked();
            }
            (Wish::Type, Some((typist, channels))) => {
                typist.work();
                channels.iter().for_each(|channel| state.bus.work(&mut state.synic, *channel));
                state.has_worked();
            }
            (Wish::Type, None) => {}
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
            self.lock().woken(&events[..count]);
        }
        // What the guest said last has its answer, or is in the report.
        let count = epoll.wait(0, &mut events).unwrap_or(0);
        let mut state = self.lock();
        state.woken(&events[..count]);
        state.tick(Instant::now());
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
            state.typist.as_ref().map(|(typist, _)| typist.violations()).unwrap_or_default(),
        ]
        .concat();
        wrong.iter().for_each(|text| tell!("the guest did wrong: {text}"));
        if state.memory.strays() > 0 {
            tell!("the guest did wrong: {} addresses where there is no memory", state.memory.strays());
        }
        tell!("{}", state.counts());
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

    fn woken(&mut self, events: &[EpollEvent]) {
        for event in events {
            let Some(channel) = event.data().checked_sub(CHANNELS) else {
                if event.data() == NEWS {
                    let _ = self.news.read();
                } else {
                    self.synic.ended(event.data() as u32);
                }
                continue;
            };
            if let Some((connection, door)) = self.doors.get(&(channel as u32)) {
                self.signals += door.read().unwrap_or(0);
                self.bus.signal(&mut self.synic, *connection);
            }
        }
    }

    /// Wakes the service thread: a processor's thread has served a channel or received a request.
    fn has_worked(&self) {
        // Where the count is full it wakes as well.
        let _ = self.news.write(1);
    }

    /// What was counted so far.
    fn counts(&self) -> String {
        let Self { hypercalls, signals, synic, .. } = self;
        format!("hypercalls={hypercalls} signals={signals} interrupts={}", synic.interrupts)
    }

    /// Does what is due; how long there is nothing.
    fn tick(&mut self, now: Instant) -> Duration {
        let mut next = NAP;
        // What serving a channel took in, with no signal, is looked at by the next round.
        let mut has_worked = false;
        for (channel, service) in &mut self.services {
            if service.serve(now, self.must_end) {
                self.bus.work(&mut self.synic, *channel);
                has_worked = true;
            }
            if let Some(due) = service.due() {
                next = next.min(due.saturating_duration_since(now));
            }
        }
        if let Some((card, peer)) = &mut self.card {
            let frames = peer.serve(card.take_frames());
            if !frames.is_empty() {
                let (_, table) = card.settings();
                for bytes in frames {
                    card.receive_on(steer(&bytes, &table), WireFrame { bytes, info: vec![] });
                }
                self.bus.work_all(&mut self.synic, self.card_channel);
                has_worked = true;
            }
            if let Some(delay) = peer.delay() {
                next = next.min(delay);
            }
        }
        if has_worked { Duration::ZERO } else { next }
    }
}

/// The channel of a frame: by its addresses and ports, and the table that the guest has set.
fn steer(frame: &[u8], table: &[u32]) -> u16 {
    // Of IPv4 without options, and TCP or UDP in it.
    let flow = frame.get(26..38).unwrap_or_default();
    let sum = flow.iter().fold(0usize, |sum, byte| sum.wrapping_mul(31).wrapping_add((*byte).into()));
    sum.checked_rem(table.len()).map_or(0, |at| table[at] as u16)
}
