//! Xen, as far as a guest with paravirtual devices needs it: hypercalls, event channels, the grant table, xenstore, and backends of disks and
//! network cards.

mod block;
mod events;
mod grants;
mod net;
mod ring;
mod store;

use crate::{Guest, WeakGuest};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

pub use block::XenDisk;
pub use net::{XenFrame, XenReceived};
use store::Store;

/// Where the pages of xenstore and of the console are.
const STORE_PAGE: u64 = 0xfeff_c000;
const CONSOLE_PAGE: u64 = 0xfeff_d000;
const STORE_PORT: u32 = 1;
const CONSOLE_PORT: u32 = 2;
/// Leaves of CPUID.
const BASE: u32 = 0x4000_0000;
const PAGE: u64 = 4096;

const NOT_IMPLEMENTED: i64 = -38;
const INVALID: i64 = -22;

/// Changes an answer of a backend, of a length that stays.
pub type ChangeAnswer = Box<dyn FnMut(&mut [u8]) + Send>;
/// Changes a message of xenstore.
pub type ChangeMessage = Box<dyn FnMut(&mut Vec<u8>) + Send>;

/// What goes wrong.
#[derive(Default)]
#[non_exhaustive]
pub struct XenFaults {
    /// Backends do not look at their rings.
    pub holds: bool,
    /// Backends leave their pages mapped when they answer.
    pub keeps_pages: bool,
    /// Backends do not close.
    pub refuses_close: bool,
    /// Backends of disks see a state of the frontend when it has changed twice more, or the latest when the guest waits.
    pub lags: bool,
    /// How many transactions meet others.
    pub conflicts: u32,
    /// Xenstore does not answer.
    pub is_deaf: bool,
    /// Changes the answers of backends: 16 bytes for a disk, 4 or 8 for a card.
    pub mutate: Option<ChangeAnswer>,
    /// Changes the messages of xenstore.
    pub mutate_store: Option<ChangeMessage>,
    /// Added to what backends say that they have answered.
    pub claims: u32,
    /// The hypervisor refuses the queues of events of this processor.
    pub refuses_queues_of: Option<u32>,
    /// The hypervisor refuses pages with words of event channels.
    pub refuses_words: bool,
    /// The hypervisor refuses to map pages with the status of grants.
    pub refuses_status: bool,
    /// The hypervisor has no event channels by which a guest sends itself events.
    pub lacks_own_events: bool,
}

/// What the domain is on.
struct State {
    /// The first of the CPUID leaves.
    base: u32,
    /// The frames that the shared page and the grant table were mapped to.
    shared: Option<u64>,
    grants: grants::Table,
    /// Event channels that are noted in queues, if that is offered.
    fifo: Option<events::Fifo>,
    /// The vector of each processor, and the callback.
    vectors: BTreeMap<u32, u8>,
    has_vectors: bool,
    callback: u64,
    /// Event channels by number: the backend's device, if it is one.
    ports: BTreeMap<u32, Option<(&'static str, u32)>>,
    next_port: u32,
    vcpus: BTreeMap<u32, u32>,
    store: Store,
    disks: BTreeMap<u32, block::Backend>,
    cards: BTreeMap<u32, net::Backend>,
    faults: XenFaults,
    /// Events to deliver, when nothing is locked.
    raised: Vec<u32>,
    /// Interrupts that processors do not take now, if they take none.
    held: Option<std::collections::BTreeSet<(u32, u8)>>,
    /// Accesses of backends to what was not granted, which they do not make.
    refused: u64,
    kicks: u64,
    shutdowns: Vec<u32>,
    /// What `SCHEDOP_shutdown` returns for a suspension.
    resumes: bool,
    timer: u64,
    /// Frames that the guest has given back.
    ballooned: std::collections::BTreeSet<u64>,
}

/// A host of Xen. A handle: clones are the same host.
#[derive(Clone)]
pub struct XenHost {
    state: Arc<Mutex<State>>,
    guest: WeakGuest,
}

impl XenHost {
    /// Makes a new Xen the hypervisor of `guest`.
    pub fn new(guest: &Guest) -> Self {
        guest.add_registers(STORE_PAGE, &[0; PAGE as usize]);
        guest.add_registers(CONSOLE_PAGE, &[0; PAGE as usize]);
        let state = State {
            base: BASE,
            shared: None,
            grants: grants::Table::default(),
            fifo: None,
            vectors: BTreeMap::new(),
            has_vectors: true,
            callback: 0,
            ports: [(STORE_PORT, None), (CONSOLE_PORT, None)].into(),
            next_port: 3,
            vcpus: BTreeMap::new(),
            store: Store::new(),
            disks: BTreeMap::new(),
            cards: BTreeMap::new(),
            faults: XenFaults::default(),
            raised: vec![],
            held: None,
            refused: 0,
            kicks: 0,
            shutdowns: vec![],
            resumes: true,
            timer: 0,
            ballooned: std::collections::BTreeSet::new(),
        };
        let this = Self { state: Arc::new(Mutex::new(state)), guest: guest.downgrade() };
        guest.set_xen(this.clone());
        this
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Puts the CPUID leaves behind those of another interface.
    pub fn set_base(&self, base: u32) {
        self.lock().base = base;
    }

    /// Whether each processor can have a vector; otherwise there is the callback alone.
    pub fn set_vectors(&self, has_vectors: bool) {
        self.lock().has_vectors = has_vectors;
    }

    /// Whether events can be noted in queues; otherwise there are the tables of the shared page alone.
    pub fn set_fifo(&self, has_fifo: bool) {
        self.lock().fifo = has_fifo.then(events::Fifo::default);
    }

    /// Whether there are grants of version 2.
    pub fn set_wide_grants(&self, has_wide: bool) {
        self.lock().grants.has_wide = has_wide;
    }

    /// Changes what goes wrong.
    pub fn faults(&self, change: impl FnOnce(&mut XenFaults)) {
        change(&mut self.lock().faults);
    }

    /// Adds a disk with this device number: its nodes appear in xenstore.
    pub fn add_disk(&self, id: u32, disk: XenDisk) {
        self.with(|state, guest| block::add(state, guest, id, disk));
    }

    /// Adds a network card.
    pub fn add_card(&self, id: u32, features: &[(&str, &str)]) {
        self.with(|state, guest| net::add(state, guest, id, features));
    }

    /// The content of a disk.
    pub fn disk_bytes(&self, id: u32) -> Vec<u8> {
        self.lock().disks[&id].disk.bytes.clone()
    }

    /// Operations of a disk so far, but reads and writes: flushes and discards.
    pub fn disk_operations(&self, id: u32) -> Vec<u8> {
        self.lock().disks[&id].operations.clone()
    }

    /// Asks the guest to give a device back, as xl does.
    pub fn remove(&self, class: &str, id: u32) {
        self.with(|state, guest| {
            let backend = state.store.text(&format!("device/{class}/{id}/backend")).unwrap_or_default();
            state.set(guest, &format!("{backend}/online"), "0");
            state.set(guest, &format!("{backend}/state"), "5");
        });
    }

    /// Sets a node, as the host's tools do.
    pub fn set(&self, path: &str, value: &str) {
        self.with(|state, guest| state.set(guest, path, value));
    }

    /// The value of a node.
    pub fn node(&self, path: &str) -> Option<String> {
        self.lock().store.text(path)
    }

    /// Frames that a card has sent.
    pub fn take_sent(&self, id: u32) -> Vec<XenFrame> {
        std::mem::take(&mut self.lock().cards.get_mut(&id).expect("a card").sent)
    }

    /// Gives a frame to the guest; returns whether there was room.
    pub fn receive(&self, id: u32, bytes: &[u8], how: &XenReceived) -> bool {
        self.with(|state, guest| net::receive(state, guest, id, bytes, how)).unwrap_or(false)
    }

    /// Has the backends look at their rings.
    pub fn run(&self) {
        self.with(|state, guest| {
            block::catch_up(state, guest);
            state.work(guest);
        });
    }

    /// Accesses that backends would have made to what was not granted to them.
    pub fn refused(&self) -> u64 {
        self.lock().refused
    }

    /// Events that the guest has sent so far, but those to xenstore and the console.
    pub fn kicks(&self) -> u64 {
        self.lock().kicks
    }

    /// How many pages the backend of a disk keeps mapped, with persistent grants.
    pub fn kept_pages(&self, id: u32) -> usize {
        self.lock().disks.get(&id).and_then(|disk| disk.kept.as_ref()).map_or(0, |kept| kept.len())
    }

    /// What the guest has asked to end or suspend for.
    pub fn shutdowns(&self) -> Vec<u32> {
        self.lock().shutdowns.clone()
    }

    /// Whether a suspension ends in another domain; otherwise it is cancelled.
    pub fn set_resumes(&self, resumes: bool) {
        self.lock().resumes = resumes;
    }

    /// The time for which the guest has set its timer.
    pub fn timer(&self) -> u64 {
        self.lock().timer
    }

    /// How many frames the guest has given back.
    pub fn ballooned(&self) -> usize {
        self.lock().ballooned.len()
    }

    /// Raises the virtual interrupt of the timer.
    pub fn fire_timer(&self) {
        self.with(|state, _| {
            let port = state.ports.iter().find(|(_, of)| **of == Some(("timer", 0))).map(|(port, _)| *port);
            state.raised.extend(port);
        });
    }

    /// What the guest has written to the console.
    pub fn console(&self) -> Vec<u8> {
        let mut bytes = vec![];
        self.guest.with(|guest| {
            let word = |at: u64| {
                (0..4)
                    .map(|byte| u32::from(guest.register(CONSOLE_PAGE + at + byte)) << (8 * byte))
                    .sum::<u32>()
            };
            let (consumed, produced) = (word(3080), word(3084));
            bytes = (consumed..produced)
                .map(|at| guest.register(CONSOLE_PAGE + 1024 + u64::from(at & 2047)))
                .collect();
            guest.set_register(CONSOLE_PAGE + 3080, produced);
        });
        bytes
    }

    /// Works on the state, and delivers the events that come of it when it is unlocked.
    fn with<R>(&self, work: impl FnOnce(&mut State, &Guest) -> R) -> Option<R> {
        let mut result = None;
        self.guest.with(|guest| {
            let raised = {
                let state = &mut *self.lock();
                result = Some(work(state, guest));
                std::mem::take(&mut state.raised)
            };
            raised.into_iter().for_each(|port| self.deliver(guest, port));
        });
        result
    }

    pub(crate) fn cpuid(&self, leaf: u32) -> [u32; 4] {
        let base = self.lock().base;
        let text = |bytes| u32::from_le_bytes(bytes);
        match leaf {
            1 => [0, 0, 1 << 31, 0],
            leaf if leaf == base => [base + 4, text(*b"XenV"), text(*b"MMXe"), text(*b"nVMM")],
            leaf if leaf == base + 1 => [4 << 16 | 17, 0, 0, 0],
            leaf if leaf == base + 4 => [1 << 3 | 1 << 6, crate::guest::current_processor(), 0, 0],
            _ => [0; 4],
        }
    }

    /// Executes a hypercall. Its pointers are addresses of this process.
    pub(crate) fn hypercall(&self, number: u32, [command, pointer, _]: [u64; 3]) -> i64 {
        // SAFETY: the driver passes the address of an argument of the call's type, which lives during the call.
        let word = |at: usize| unsafe { (pointer as *const u32).add(at).read_unaligned() };
        // SAFETY: as above.
        let put = |at: usize, value: u32| unsafe { (pointer as *mut u32).add(at).write_unaligned(value) };
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 1)) << 32;
        self.with(|state, guest| match (number, command) {
            (17, 6) => {
                put(1, if word(0) == 0 { 0x705 } else { 0 });
                0
            }
            (12, 7) => state.map(guest, word(1), long(2), long(4)),
            (12, 1 | 6) => {
                let (list, count) = (long(0) as *const u64, long(2));
                let mut done = 0;
                for at in 0..count as usize {
                    // SAFETY: the driver passes a list of as many frames.
                    let frame = unsafe { list.add(at).read_unaligned() };
                    done += i64::from(match command {
                        1 => state.ballooned.insert(frame),
                        _ => state.ballooned.remove(&frame),
                    });
                }
                done
            }
            (20, 6) => {
                put(2, 64);
                put(3, 0);
                0
            }
            (20, 8) => state.set_version(guest, word(0)),
            (34, 0) => {
                state.callback = long(2);
                0
            }
            (34, 1) => {
                let value = match word(1) {
                    1 => STORE_PAGE / PAGE,
                    2 => u64::from(STORE_PORT),
                    17 => CONSOLE_PAGE / PAGE,
                    18 => u64::from(CONSOLE_PORT),
                    _ => return INVALID,
                };
                put(2, value as u32);
                put(3, 0);
                0
            }
            (34, 23) if state.has_vectors => {
                state.vectors.insert(word(0), word(1) as u8);
                0
            }
            (32, 1) => {
                let port = state.new_port(Some(("timer", 0)));
                state.vcpus.insert(port, word(1));
                put(2, port);
                0
            }
            (32, 3) => state.ports.remove(&word(0)).map_or(INVALID, |_| 0),
            (32, 4) => state.send(guest, word(0)),
            (32, 6) => {
                put(1, state.new_port(None));
                0
            }
            (32, 7) if !state.faults.lacks_own_events => {
                let port = state.new_port(Some(("ipi", 0)));
                state.vcpus.insert(port, word(0));
                put(1, port);
                0
            }
            (32, 8) => {
                state.vcpus.insert(word(0), word(1));
                0
            }
            (32, 11) => state.add_queues(long(0), word(2), word(3)),
            (32, 12) => state.add_words(long(0)),
            (29, 2) => state.shutdown(guest, word(0)),
            (29, 0) => 0,
            _ => NOT_IMPLEMENTED,
        })
        .unwrap_or(NOT_IMPLEMENTED)
    }

    pub(crate) fn set_timer(&self, nanos: u64) -> i64 {
        self.lock().timer = nanos;
        0
    }
}

impl State {
    fn new_port(&mut self, of: Option<(&'static str, u32)>) -> u32 {
        let port = self.next_port;
        self.next_port += 1;
        self.ports.insert(port, of);
        port
    }

    fn map(&mut self, guest: &Guest, space: u32, index: u64, frame: u64) -> i64 {
        match space {
            0 => {
                guest.write(frame * PAGE, &[0; PAGE as usize]);
                self.shared = Some(frame);
                // The time of the first processor: a count is a nanosecond.
                word32(guest, frame * PAGE + 32 + 24).store(1 << 31, Ordering::Relaxed);
                guest.write(frame * PAGE + 32 + 28, &[1, 1]);
            }
            1 => return self.map_grants(guest, index, frame),
            _ => return INVALID,
        }
        0
    }

    fn send(&mut self, guest: &Guest, port: u32) -> i64 {
        match self.ports.get(&port) {
            None => return INVALID,
            Some(_) if port == STORE_PORT || port == CONSOLE_PORT => {}
            Some(Some(("ipi", _))) => {
                self.raised.push(port);
                return 0;
            }
            Some(_) => self.kicks += 1,
        }
        self.work(guest);
        0
    }

    /// Xenstore answers, and backends look at their rings.
    fn work(&mut self, guest: &Guest) {
        store::work(self, guest);
        if !self.faults.holds {
            block::work(self, guest);
            net::work(self, guest);
        }
    }

    /// Sets a node, which watches and backends see.
    fn set(&mut self, guest: &Guest, path: &str, value: &str) {
        self.store.set(path, value.as_bytes());
        self.changed(guest, path);
    }

    fn changed(&mut self, guest: &Guest, path: &str) {
        store::fire(self, path);
        let parts: Vec<&str> = path.split('/').collect();
        if let ["device", class, id, "state"] = parts[..] {
            if let Ok(id) = id.parse() {
                match class {
                    "vbd" => block::frontend_changed(self, guest, id),
                    "vif" => net::frontend_changed(self, guest, id),
                    _ => {}
                }
            }
        }
        store::work(self, guest);
    }

    fn shutdown(&mut self, guest: &Guest, reason: u32) -> i64 {
        self.shutdowns.push(reason);
        if reason != 2 {
            return 0;
        }
        if !self.resumes {
            return 1;
        }
        // Another domain: no event channels, no grants, and backends that wait.
        self.ports.retain(|port, _| *port <= CONSOLE_PORT);
        self.shared = None;
        self.grants.clear();
        self.fifo = self.fifo.take().map(|_| events::Fifo::default());
        self.vectors.clear();
        self.vcpus.clear();
        self.store.forget_watches();
        block::restart(self, guest);
        net::restart(self, guest);
        0
    }
}

fn word64(guest: &Guest, at: u64) -> &AtomicU64 {
    // SAFETY: the address is in guest memory, which lives as long, and aligned.
    unsafe { &*guest.host(at).cast::<AtomicU64>() }
}

fn word32(guest: &Guest, at: u64) -> &AtomicU32 {
    // SAFETY: the address is in guest memory, which lives as long, and aligned.
    unsafe { &*guest.host(at).cast::<AtomicU32>() }
}

fn word16(guest: &Guest, at: u64) -> &AtomicU16 {
    // SAFETY: the address is in guest memory, which lives as long, and aligned.
    unsafe { &*guest.host(at).cast::<AtomicU16>() }
}
