//! VMBus and its devices, served by one thread. Signals of the guest, ends of messages, and timers wake it.

use crate::input_script::InputScript;
use crate::machine::set_signal_eventfd;
use crate::peer::Peer;
use crate::ports::Action;
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
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};
use zerocopy::FromBytes;

/// Epoll data of a channel's signal: this plus the channel's number. Values below it are processor numbers.
const CHANNELS: u64 = 1 << 32;
/// Epoll data of the event by which a processor's thread wakes the service thread.
const WORK_PENDING: u64 = CHANNELS - 1;
/// The longest sleep of the service thread, which then checks whether the machine has stopped.
const MAX_SLEEP: Duration = Duration::from_millis(200);

/// The devices on the bus.
pub struct Devices {
    /// The newest version of VMBus to accept; 0 for all.
    pub newest: VmbusVersion,
    pub disks: Option<StorHost>,
    pub card: Option<(NetVspHost, Peer)>,
    pub input_script: Option<InputScript>,
}

struct State {
    vm: Arc<VmFd>,
    memory: Memory,
    synic: Synic,
    bus: Bus,
    epoll: Arc<Epoll>,
    /// By channel: the connection id, and the event that KVM signals for it.
    signal_events: BTreeMap<u32, (u32, EventFd)>,
    work_pending: EventFd,
    disks: Option<StorHost>,
    card: Option<(NetVspHost, Peer)>,
    card_channel: u32,
    services: Vec<(u32, Service)>,
    input_script: Option<(InputScript, [u32; 2])>,
    shutdown_requested: bool,
    hypercalls: u64,
    signals: u64,
}

/// The host's side of VMBus, shared by the processors' threads and the service thread.
pub struct Host(Mutex<State>);

impl Host {
    pub fn new(vm: Arc<VmFd>, memory: Memory, processors: u32, devices: Devices) -> Result<Self> {
        let synic = Synic::new(&vm, memory.clone(), processors)?;
        let epoll = Arc::new(Epoll::new()?);
        for (vp, end) in synic.resample_events().enumerate() {
            let event = EpollEvent::new(EventSet::IN, vp as u64);
            epoll.ctl(ControlOperation::Add, end.as_raw_fd(), event)?;
        }
        let work_pending = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?;
        epoll.ctl(
            ControlOperation::Add,
            work_pending.as_raw_fd(),
            EpollEvent::new(EventSet::IN, WORK_PENDING),
        )?;
        let mut state = State {
            vm,
            bus: Bus::new(memory.clone()),
            memory,
            synic,
            epoll,
            signal_events: BTreeMap::new(),
            work_pending,
            disks: devices.disks,
            card: devices.card,
            card_channel: 0,
            services: vec![],
            input_script: None,
            shutdown_requested: false,
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
        if let Some(input_script) = devices.input_script {
            let keyboard = state.add(vmbus::KEYBOARD, 0x30, false, input_script.keyboard.clone());
            let mouse = state.add(vmbus::MOUSE, 0x31, true, input_script.mouse.clone());
            state.input_script = Some((input_script, [keyboard, mouse]));
        }
        state.update_connections()?;
        Ok(Self(Mutex::new(state)))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // If a thread panicked, the machine stops, and the state is used for the last report only.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Handles a write to a SynIC register of processor `vp`; takes the values of all three.
    pub fn set_registers(&self, vp: u32, control: u64, events: u64, messages: u64) {
        self.lock().synic.set_registers(vp, control, events, messages);
    }

    /// Handles a hypercall that KVM does not handle itself.
    pub fn hypercall(&self, input: u64, parameter: u64) -> HvStatus {
        let mut state = self.lock();
        let state = &mut *state;
        state.hypercalls += 1;
        let is_fast = input & HvHypercallFlags::FAST.bits() != 0;
        match HvHypercallCode(input as u16) {
            HvHypercallCode::POST_MESSAGE if !is_fast => {
                let bytes = state.memory.read(parameter, size_of::<HvPostMessageInput>());
                let message = HvPostMessageInput::read_from_bytes(&bytes).expect("the length matches");
                let status = state.bus.post(&mut state.synic, &message);
                state.wake_service_thread();
                match state.update_connections() {
                    Ok(()) => status,
                    Err(error) => {
                        log_line!("{error:#}");
                        HvStatus::INSUFFICIENT_MEMORY
                    }
                }
            }
            // KVM passes the value itself, for a fast hypercall and for one with its input in memory.
            HvHypercallCode::SIGNAL_EVENT => {
                let status = state.bus.signal(&mut state.synic, parameter as u32);
                state.wake_service_thread();
                status
            }
            _ => HvStatus::INVALID_HYPERCALL_CODE,
        }
    }

    /// Runs an action, after the guest has written its text.
    pub fn run_action(&self, action: Action) {
        let mut state = self.lock();
        let state = &mut *state;
        match (action, &state.input_script) {
            (Action::PrintCounts, _) => log_line!("counted {}", state.counts()),
            (Action::Shutdown, _) => {
                state.shutdown_requested = true;
                state.wake_service_thread();
            }
            (Action::Type, Some((input_script, channels))) => {
                input_script.play();
                channels.iter().for_each(|channel| state.bus.work(&mut state.synic, *channel));
                state.wake_service_thread();
            }
            (Action::Type, None) => {}
        }
    }

    /// Serves the bus until `stop` is set.
    pub fn serve(&self, stop: &AtomicBool) -> Result<()> {
        let mut events = vec![EpollEvent::default(); 64];
        let epoll = self.lock().epoll.clone();
        while !stop.load(Ordering::Acquire) {
            let delay = self.lock().tick(Instant::now());
            // Rounded up to milliseconds, so that timers have expired when the thread wakes.
            let timeout = delay.min(MAX_SLEEP).as_micros().div_ceil(1000) as i32;
            let count = match epoll.wait(timeout, &mut events) {
                Err(error) if error.kind() == ErrorKind::Interrupted => 0,
                other => other.context("epoll_wait failed")?,
            };
            self.lock().on_events(&events[..count]);
        }
        // Handles the last signals, so that the guest's violations are in the report.
        let count = epoll.wait(0, &mut events).unwrap_or(0);
        let mut state = self.lock();
        state.on_events(&events[..count]);
        state.tick(Instant::now());
        Ok(())
    }

    /// Prints violations of the protocol by the guest, and the counts.
    pub fn report(&self) {
        let state = self.lock();
        let violations = [
            state.bus.violations().to_vec(),
            state.disks.as_ref().map(StorHost::violations).unwrap_or_default(),
            state.card.as_ref().map(|(card, _)| card.violations()).unwrap_or_default(),
            state.services.iter().flat_map(|(_, service)| service.device.violations()).collect(),
            state
                .input_script
                .as_ref()
                .map(|(input_script, _)| input_script.violations())
                .unwrap_or_default(),
        ]
        .concat();
        violations.iter().for_each(|text| log_line!("the guest did wrong: {text}"));
        if state.memory.strays() > 0 {
            log_line!("the guest did wrong: {} addresses outside memory", state.memory.strays());
        }
        log_line!("{}", state.counts());
    }
}

impl State {
    /// Adds a device to the bus; returns its channel.
    fn add(&mut self, interface: Guid, number: u8, is_pipe: bool, device: impl VmbusDevice + 'static) -> u32 {
        let mut instance = *b"paravirt-monitor";
        instance[15] = number;
        let settings =
            OfferSettings { interface, instance: Guid(instance), is_pipe, ..OfferSettings::default() };
        self.bus.add(&mut self.synic, settings, Box::new(device))
    }

    /// Registers an event for each new channel's signals with KVM, and removes those of closed channels.
    fn update_connections(&mut self) -> Result<()> {
        let now: BTreeMap<u32, u32> = self.bus.connections().collect();
        let vm = &self.vm;
        let mut result = Ok(());
        self.signal_events.retain(|channel, (connection, _)| {
            let is_there = now.contains_key(channel);
            if !is_there {
                result = set_signal_eventfd(vm, *connection, None);
            }
            is_there
        });
        for (channel, connection) in now {
            if self.signal_events.contains_key(&channel) {
                continue;
            }
            let eventfd = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?;
            set_signal_eventfd(vm, connection, Some(eventfd.as_raw_fd()))?;
            let event = EpollEvent::new(EventSet::IN, CHANNELS + u64::from(channel));
            self.epoll.ctl(ControlOperation::Add, eventfd.as_raw_fd(), event)?;
            self.signal_events.insert(channel, (connection, eventfd));
        }
        result
    }

    /// Handles events of epoll.
    fn on_events(&mut self, events: &[EpollEvent]) {
        for event in events {
            let Some(channel) = event.data().checked_sub(CHANNELS) else {
                if event.data() == WORK_PENDING {
                    let _ = self.work_pending.read();
                } else {
                    self.synic.on_resample(event.data() as u32);
                }
                continue;
            };
            if let Some((connection, eventfd)) = self.signal_events.get(&(channel as u32)) {
                self.signals += eventfd.read().unwrap_or(0);
                self.bus.signal(&mut self.synic, *connection);
            }
        }
    }

    /// Wakes the service thread: a processor's thread has served a channel or received a request.
    fn wake_service_thread(&self) {
        // The write fails only if the counter is at its maximum; then the thread is woken, too.
        let _ = self.work_pending.write(1);
    }

    /// Returns the counts so far.
    fn counts(&self) -> String {
        let Self { hypercalls, signals, synic, .. } = self;
        format!("hypercalls={hypercalls} signals={signals} interrupts={}", synic.interrupts)
    }

    /// Serves services and the network card; returns how long the service thread may sleep.
    fn tick(&mut self, now: Instant) -> Duration {
        let mut next = MAX_SLEEP;
        // Serving a channel may receive packets without a signal: the next round handles them.
        let mut has_worked = false;
        for (channel, service) in &mut self.services {
            if service.serve(now, self.shutdown_requested) {
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

/// Returns the channel for a frame: a hash of its addresses and ports selects an entry of the guest's indirection table.
fn steer(frame: &[u8], table: &[u32]) -> u16 {
    // Assumes IPv4 without options, and TCP or UDP.
    let flow = frame.get(26..38).unwrap_or_default();
    let sum = flow.iter().fold(0usize, |sum, byte| sum.wrapping_mul(31).wrapping_add((*byte).into()));
    sum.checked_rem(table.len()).map_or(0, |at| table[at] as u16)
}
