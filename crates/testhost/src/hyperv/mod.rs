//! A model of a Hyper-V host in process: hypervisor, SynIC and VMBus. It is as strict as real hosts, and can inject faults.
//!
//! It responds within the call of the guest. Protocol violations of the guest are recorded: a test checks at its end that
//! [`violations`](HvHost::violations) is empty.

mod bus;
mod channel;
mod devices;
mod gpadl;
mod ic;
mod input;
mod knobs;
mod netvsp;
mod nvsp;
mod page;
mod ring;
mod rndis;
mod socket;
mod storvsp;
mod synic;
mod violations;

pub use bus::{Bus, Controller, Faults, Judge, OfferSettings, Said, Verdict};
pub use devices::{BalloonHost, Crash, Echo, Packets, VmbusDevice};
pub use ic::{IcAnswer, IcHost};
pub use input::InputHost;
pub use netvsp::{NetVspFaultConfig, NetVspHost, WireFrame};
pub use page::{put_message, set_event};
pub use ring::{
    BufferRange, GuestRange, HostPacket, HostReader, HostRingError, HostRingMemory, HostWriter, PacketKind,
};
pub use socket::SocketEnd;
pub use storvsp::{FailIf, StorFaultConfig, StorHost};

use crate::Guest;
use hyperv_bindings::Guid;
use hyperv_bindings::tlfs::{
    HV_INTERFACE_SIGNATURE, HvCpuidLeaf, HvCrashFlags, HvFeatureFlags, HvHypercallCode, HvHypercallFlags,
    HvMsr, HvPageFlags, HvPostMessageInput, HvPrivilegeFlags, HvReferenceTsc, HvStatus,
};
use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use synic::Synic;
use violations::Violations;
use zerocopy::{FromBytes, IntoBytes};

/// What the modelled hypervisor offers.
#[derive(Copy, Clone, Debug)]
pub struct HvOffer {
    /// Privileges.
    pub privileges: HvPrivilegeFlags,
    /// Features.
    pub features: HvFeatureFlags,
    /// What CRASH_CTL reads.
    pub crash: HvCrashFlags,
    /// The isolation of the guest's memory, from bit 8 on whether there is a paravisor; 0 for none. It counts with the privilege only.
    pub isolation: u32,
}

impl Default for HvOffer {
    /// Everything that the model supports.
    fn default() -> Self {
        Self {
            privileges: HvPrivilegeFlags::all(),
            features: HvFeatureFlags::CRASH_MSRS | HvFeatureFlags::DIRECT_STIMER,
            crash: HvCrashFlags::NOTIFY | HvCrashFlags::MESSAGE,
            isolation: 0,
        }
    }
}

impl HvOffer {
    /// The minimum for VMBus: what OpenVMM on KVM offers, without its clock.
    pub fn least() -> Self {
        Self {
            privileges: HvPrivilegeFlags::HYPERCALL | HvPrivilegeFlags::SYNIC | HvPrivilegeFlags::VP_INDEX,
            features: HvFeatureFlags::empty(),
            crash: HvCrashFlags::empty(),
            isolation: 0,
        }
    }
}

pub(crate) struct State {
    pub offer: HvOffer,
    os_id: u64,
    hypercall: u64,
    /// Whether it is a host of 64-bit ARM.
    is_arm: bool,
    reference_tsc: u64,
    crash: [u64; 5],
    crashes: Vec<Crash>,
    resets: u32,
    pub synic: Synic,
    pub bus: Bus,
    pub violations: Violations,
    /// The statuses with which the next HvCallPostMessage calls fail.
    pub refuse: VecDeque<HvStatus>,
}

impl State {
    /// Records a protocol violation of the guest.
    pub fn violation(&mut self, text: impl Into<String>) {
        self.violations.note(text);
    }
}

/// A model of a Hyper-V host. A handle: clones are the same host.
#[derive(Clone)]
pub struct HvHost(Arc<Mutex<State>>);

impl HvHost {
    /// Creates a host for `guest`, with VMBus and no devices.
    pub fn new(guest: &Guest, offer: HvOffer) -> Self {
        let processors = guest.processors();
        let host = Self(Arc::new(Mutex::new(State {
            offer,
            os_id: 0,
            hypercall: 0,
            is_arm: false,
            reference_tsc: 0,
            crash: [0; 5],
            crashes: vec![],
            resets: 0,
            synic: Synic::new(guest.memory().clone(), processors),
            bus: Bus::new(guest.memory().clone()),
            violations: Violations::default(),
            refuse: VecDeque::new(),
        })));
        guest.set_hypervisor(host.clone());
        host
    }

    /// Gives `guest` the least of hypervisors that VMBus needs, with one device of class `interface` on the bus; returns the host and
    /// the number of the device's channel.
    pub fn with_device(guest: &Guest, interface: Guid, device: impl VmbusDevice + 'static) -> (Self, u32) {
        let host = Self::new(guest, HvOffer::least());
        let channel = host.add(guest, OfferSettings::new(interface), device);
        (host, channel)
    }

    fn with<R>(&self, guest: &Guest, work: impl FnOnce(&mut State) -> R) -> R {
        let result = work(&mut self.0.lock().expect("the host"));
        self.settle(guest);
        result
    }

    /// Raises the pending interrupts, one at a time, without the lock: their handlers call the host.
    fn settle(&self, guest: &Guest) {
        loop {
            let next = self.0.lock().expect("the host").synic.raised.pop_front();
            let Some((processor, descriptor)) = next else { return };
            guest.interrupt(processor, descriptor);
        }
    }

    /// Returns the protocol violations of the guest so far.
    pub fn violations(&self) -> Vec<String> {
        let state = self.0.lock().expect("the host");
        let strays = match state.bus.memory.strays() {
            0 => vec![],
            count => vec![format!("{count} addresses outside memory")],
        };
        [state.violations.list(), state.synic.violations.list(), state.bus.violations(), &strays].concat()
    }

    /// Returns the guest's crash reports.
    pub fn crashes(&self) -> Vec<Crash> {
        self.0.lock().expect("the host").crashes.clone()
    }

    /// Returns how often the guest has requested a reset.
    pub fn resets(&self) -> u32 {
        self.0.lock().expect("the host").resets
    }

    /// Returns whether the guest's identity or its hypercall page is set, or a SynIC is enabled.
    pub fn is_in_use(&self) -> bool {
        let state = self.0.lock().expect("the host");
        state.os_id != 0 || state.hypercall & HvPageFlags::ENABLE.bits() != 0 || state.synic.is_in_use()
    }

    /// Makes the next HvCallPostMessage calls fail with these statuses, one each.
    pub fn refuse(&self, statuses: &[HvStatus]) {
        self.0.lock().expect("the host").refuse.extend(statuses);
    }

    /// Clears the statuses set by [`refuse`](Self::refuse).
    pub fn stop_refusing(&self) {
        self.0.lock().expect("the host").refuse.clear();
    }

    /// Fires the timers that have expired.
    pub fn run_timers(&self, guest: &Guest) {
        let now = guest.reference_time();
        self.with(guest, |state| {
            state.synic.run_timers(now);
            if !state.offer.privileges.contains(HvPrivilegeFlags::STIMER) {
                state.violation("timers of a host that has none");
            }
        });
    }

    /// Makes it a host of 64-bit ARM: hypercalls need no page, but the guest's identity.
    pub fn set_arm(&self) {
        self.0.lock().expect("the host").is_arm = true;
    }

    /// The identity that the guest has set; 0 for none.
    pub fn os_id(&self) -> u64 {
        self.0.lock().expect("the host").os_id
    }

    /// Returns a CPUID leaf.
    pub(crate) fn cpuid(&self, leaf: u32) -> [u32; 4] {
        let state = self.0.lock().expect("the host");
        let privileges = state.offer.privileges.bits();
        let text =
            |at: usize| u32::from_le_bytes(b"Microsoft Hv"[at..at + 4].try_into().expect("four bytes"));
        match HvCpuidLeaf(leaf) {
            HvCpuidLeaf(1) => [0, 0, 1 << 31, 0],
            HvCpuidLeaf::VENDOR => [HvCpuidLeaf::ISOLATION.0, text(0), text(4), text(8)],
            HvCpuidLeaf::ISOLATION => [state.offer.isolation >> 8, state.offer.isolation & 15, 0, 0],
            HvCpuidLeaf::INTERFACE => [HV_INTERFACE_SIGNATURE, 0, 0, 0],
            HvCpuidLeaf::FEATURES => {
                [privileges as u32, (privileges >> 32) as u32, 0, state.offer.features.bits()]
            }
            _ => [0; 4],
        }
    }

    pub(crate) fn read_msr(&self, guest: &Guest, processor: u32, index: u32) -> u64 {
        let state = self.0.lock().expect("the host");
        match HvMsr(index) {
            HvMsr::GUEST_OS_ID => state.os_id,
            HvMsr::HYPERCALL => state.hypercall,
            // It differs from the processor's number, so that tests notice when the two are confused.
            HvMsr::VP_INDEX => u64::from(state.synic.vp_index(processor)),
            HvMsr::TIME_REF_COUNT => guest.reference_time(),
            HvMsr::REFERENCE_TSC => state.reference_tsc,
            HvMsr::CRASH_CTL => state.offer.crash.bits(),
            _ => match state.synic.read(processor, index) {
                Some(value) => value,
                None => panic!("register {index:#x} is read, which is not offered"),
            },
        }
    }

    pub(crate) fn write_msr(&self, guest: &Guest, processor: u32, index: u32, value: u64) {
        self.with(guest, |state| match HvMsr(index) {
            HvMsr::GUEST_OS_ID => {
                state.os_id = value;
                if value == 0 {
                    state.hypercall &= !HvPageFlags::ENABLE.bits();
                }
            }
            HvMsr::HYPERCALL if state.os_id == 0 => state.hypercall = value & !HvPageFlags::ENABLE.bits(),
            HvMsr::HYPERCALL => state.hypercall = value,
            HvMsr::REFERENCE_TSC => {
                state.reference_tsc = value;
                if value & HvPageFlags::ENABLE.bits() != 0 {
                    // The TSC counts nanoseconds; the reference time counts units of 100 ns.
                    let page = HvReferenceTsc { sequence: 1, reserved: 0, scale: u64::MAX / 100, offset: 7 };
                    guest.write(value & !0xfff, page.as_bytes());
                }
            }
            HvMsr::RESET => state.resets += value as u32 & 1,
            HvMsr(at) if (HvMsr::CRASH_P0.0..=HvMsr::CRASH_P4.0).contains(&at) => {
                state.crash[(at - HvMsr::CRASH_P0.0) as usize] = value;
            }
            HvMsr::CRASH_CTL => {
                let flags = HvCrashFlags::from_bits_retain(value);
                let [.., address, len] = state.crash;
                let has_text = flags.contains(HvCrashFlags::MESSAGE);
                let text = has_text.then(|| guest.read(address, len as usize));
                let text = text.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
                state.crashes.push(Crash { values: state.crash, text });
            }
            _ => state.synic.write(processor, index, value),
        });
    }

    pub(crate) fn hypercall(&self, guest: &Guest, control: u64, input: u64) -> u64 {
        let status = self.with(guest, |state| {
            if state.hypercall & HvPageFlags::ENABLE.bits() == 0 && !(state.is_arm && state.os_id != 0) {
                state.violation("a hypercall without a page for it");
                return HvStatus::OPERATION_DENIED;
            }
            let is_fast = control & HvHypercallFlags::FAST.bits() != 0;
            match (HvHypercallCode(control as u16), is_fast) {
                (HvHypercallCode::POST_MESSAGE, false) => {
                    if input % 8 != 0 || input % 4096 > 4096 - 256 {
                        return HvStatus::INVALID_ALIGNMENT;
                    }
                    if let Some(status) = state.refuse.pop_front() {
                        return status;
                    }
                    let bytes = guest.read(input, size_of::<HvPostMessageInput>());
                    let message = HvPostMessageInput::read_from_bytes(&bytes).expect("an input");
                    state.bus.post(&mut state.synic, &message)
                }
                (HvHypercallCode::SIGNAL_EVENT, true) => state.bus.signal(&mut state.synic, input as u32),
                _ => HvStatus::INVALID_HYPERCALL_CODE,
            }
        });
        u64::from(status.0)
    }

    /// Returns the processors whose SynIC is enabled.
    pub fn processors_in_use(&self) -> BTreeSet<u32> {
        self.0.lock().expect("the host").synic.in_use()
    }
}
