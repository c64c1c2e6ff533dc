//! A model of VMware's SCSI adapter: 32 registers, three rings, and [`StorDrive`]s.

use super::function::{Function, Interrupt, Model, OnBus, PciFaults};
use crate::drive::{Answer, sense};
use crate::memory::{gather, scatter};
use crate::{Guest, StorDrive};
use paravirt_pci::DeviceBox;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

const FAILED: u32 = u32::MAX;
const NOT_ENOUGH: u32 = u32::MAX - 1;
/// Interrupt bits: a completion, a message.
const COMPLETION: u32 = 1;
const MESSAGE: u32 = 4;
/// The most commands that are executed at one kick.
const MAX_COMMANDS: u32 = 1024;
/// The most elements of a list of segments, and the most bytes of a command.
const MAX_ELEMENTS: usize = 256;
const MAX_BYTES: usize = 16 << 20;
const CONFIG_ADDRESS: u64 = 0x2120 << 32;

/// Changes a completion that is about to be written.
type Mutation = Box<dyn FnMut(&mut [u8; 32]) + Send>;

/// Fault injection settings.
#[derive(Default)]
pub struct PvscsiFaults {
    /// Commands are not completed until [`PvscsiHost::release`].
    pub holds: bool,
    /// Host status and SCSI status of the next commands.
    pub fail: VecDeque<(u16, u16)>,
    /// Changes every completion before it is written.
    pub mutate: Option<Mutation>,
    /// Every completion is written twice.
    pub twice: bool,
    /// The adapter says how much was transferred, as ESXi does; QEMU does not.
    pub tells_lengths: bool,
    /// The adapter has no message ring.
    pub lacks_messages: bool,
    /// The number of requests that the adapter waits for; `None` if it cannot tell.
    pub threshold: Option<u32>,
    /// The number of targets in the configuration page; `None` if there is no such page.
    pub targets: Option<u32>,
    /// A reset of the bus and an abort do not end commands.
    pub is_stuck: bool,
    /// The adapter reset fails.
    pub refuses_reset: bool,
    /// SETUP_RINGS fails.
    pub refuses_rings: bool,
}

/// The addresses of the pages that the guest has set up.
#[derive(Default)]
struct Rings {
    state: u64,
    requests: Vec<u64>,
    completions: Vec<u64>,
    messages: Vec<u64>,
}

/// A completion that is held: context, and its bytes.
type Held = (u64, [u8; 32]);

struct Host {
    guest: Guest,
    function: Function,
    faults: PvscsiFaults,
    drives: BTreeMap<u8, StorDrive>,
    /// The command that is being written, and its words.
    command: (u32, Vec<u32>),
    status: u32,
    interrupt_status: u32,
    interrupt_mask: u32,
    rings: Option<Rings>,
    consumed: u32,
    produced: u32,
    messaged: u32,
    held: Vec<Held>,
    kicks: [u32; 2],
    commands: Vec<u8>,
    resets: [u32; 2],
    aborts: Vec<u32>,
}

/// A model of VMware's SCSI adapter. A handle: clones are the same adapter.
#[derive(Clone)]
pub struct PvscsiHost(Arc<Mutex<Host>>);

impl PvscsiHost {
    /// An adapter without units.
    pub fn new(guest: &Guest) -> Self {
        let host = Host {
            guest: guest.clone(),
            function: Function::default(),
            faults: PvscsiFaults::default(),
            drives: BTreeMap::new(),
            command: (0, vec![]),
            status: 0,
            interrupt_status: 0,
            interrupt_mask: 0,
            rings: None,
            consumed: 0,
            produced: 0,
            messaged: 0,
            held: vec![],
            kicks: [0; 2],
            commands: vec![],
            resets: [0; 2],
            aborts: vec![],
        };
        Self(Arc::new(Mutex::new(host)))
    }

    /// The adapter as its driver sees it.
    pub fn device(&self) -> DeviceBox<Guest> {
        let guest = self.with(|host| host.guest.clone());
        OnBus::boxed(&guest, self.clone())
    }

    fn with<R>(&self, work: impl FnOnce(&mut Host) -> R) -> R {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// As `with`, and then delivers the interrupt that `work` asks for.
    fn act(&self, work: impl FnOnce(&mut Host)) {
        let (guest, interrupt) = self.with(|host| {
            work(host);
            let is_raised = host.interrupt_status & host.interrupt_mask != 0;
            (host.guest.clone(), if is_raised { host.function.interrupt(0) } else { None })
        });
        interrupt.into_iter().for_each(|interrupt: Interrupt| interrupt.deliver(&guest));
    }

    /// Puts a drive at a target, in place of the one before, without a word.
    pub fn insert(&self, target: u8, drive: StorDrive) {
        self.with(|host| host.drives.insert(target, drive));
    }

    /// Takes the drive of a target away, without a word.
    pub fn remove(&self, target: u8) -> Option<StorDrive> {
        self.with(|host| host.drives.remove(&target))
    }

    /// Tells the guest by a message that the unit of a target was added or removed.
    pub fn announce(&self, target: u8, is_added: bool) {
        self.act(|host| host.message(target, is_added));
    }

    /// Calls `work` with the drive of a target; `None` if there is none.
    pub fn drive<R>(&self, target: u8, work: impl FnOnce(&mut StorDrive) -> R) -> Option<R> {
        self.with(|host| host.drives.get_mut(&target).map(work))
    }

    /// Changes the fault injection settings.
    pub fn faults(&self, change: impl FnOnce(&mut PvscsiFaults)) {
        self.with(|host| change(&mut host.faults));
    }

    /// Changes how the adapter behaves on its bus.
    pub fn pci(&self, change: impl FnOnce(&mut PciFaults)) {
        self.with(|host| change(&mut host.function.faults));
    }

    /// Writes the completions that are held.
    pub fn release(&self) {
        self.act(|host| {
            for (_, bytes) in std::mem::take(&mut host.held) {
                host.complete(&bytes);
            }
        });
    }

    /// How many commands are held.
    pub fn held(&self) -> usize {
        self.with(|host| host.held.len())
    }

    /// Kicks so far: of reads and writes, and of other commands.
    pub fn kicks(&self) -> [u32; 2] {
        self.with(|host| host.kicks)
    }

    /// Operation codes of the commands since the last call.
    pub fn take_commands(&self) -> Vec<u8> {
        self.with(|host| std::mem::take(&mut host.commands))
    }

    /// Resets so far: of the adapter, and of the bus.
    pub fn resets(&self) -> [u32; 2] {
        self.with(|host| host.resets)
    }

    /// Contexts that the guest has asked to abort.
    pub fn aborts(&self) -> Vec<u32> {
        self.with(|host| host.aborts.clone())
    }

    /// Writes a word of the state page, as a host may at any time; nothing if there is none.
    pub fn write_state(&self, word: u64, value: u32) {
        self.with(|host| {
            if let Some(rings) = host.rings.as_ref().filter(|_| host.function.is_bus_master) {
                host.guest.write(rings.state + 4 * word, &value.to_le_bytes());
            }
        });
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

impl Host {
    /// The words that a command takes; `None` for one that is not known.
    fn words(&self, command: u32) -> Option<usize> {
        match command {
            1 | 4 => Some(0),
            3 => Some(132),
            5 => Some(3),
            6 => Some(4),
            7 if self.faults.targets.is_some() => Some(6),
            8 if !self.faults.lacks_messages => Some(34),
            10 if self.faults.threshold.is_some() => Some(1),
            _ => None,
        }
    }

    fn begin(&mut self, command: u32) {
        self.command = (command, vec![]);
        match self.words(command) {
            None => self.status = FAILED,
            Some(0) => self.execute_adapter(),
            Some(_) => self.status = NOT_ENOUGH,
        }
    }

    fn push_word(&mut self, value: u32) {
        let Some(wanted) = self.words(self.command.0) else { return };
        if self.command.1.len() < wanted {
            self.command.1.push(value);
            if self.command.1.len() == wanted {
                self.execute_adapter();
            }
        }
    }

    fn execute_adapter(&mut self) {
        let (command, words) = std::mem::take(&mut self.command);
        let long = |at: usize| u64::from(words[at]) | u64::from(words[at + 1]) << 32;
        self.status = 0;
        match command {
            1 => {
                self.resets[0] += 1;
                if self.faults.refuses_reset {
                    self.status = FAILED;
                    return;
                }
                // What is in flight is forgotten.
                (self.rings, self.held) = (None, vec![]);
                (self.interrupt_status, self.interrupt_mask) = (0, 0);
            }
            3 => {
                let pages = [words[0], words[1]];
                let is_good = pages.iter().all(|count| count.is_power_of_two() && *count <= 32);
                if self.faults.refuses_rings || !is_good {
                    self.status = FAILED;
                    return;
                }
                let list = |first: usize, count: u32| {
                    (0..count as usize).map(|page| long(first + 2 * page) << 12).collect::<Vec<_>>()
                };
                let (requests, completions) = (list(4, pages[0]), list(68, pages[1]));
                let state = long(2) << 12;
                self.guest.write(state, &[0; 256]);
                self.guest.write(state + 24, &self.faults.threshold.unwrap_or(0).to_le_bytes());
                (self.consumed, self.produced, self.messaged) = (0, 0, 0);
                self.rings = Some(Rings { state, requests, completions, messages: vec![] });
            }
            4 => {
                self.resets[1] += 1;
                self.abort(|_| true, 0x22);
            }
            6 => {
                self.aborts.push(words[0]);
                let context = u64::from(words[0]);
                self.abort(|held| held == context, 0x26);
            }
            7 => {
                let (page, address, number) = (long(0), long(2), words[4]);
                if (address, number) == (CONFIG_ADDRESS, 0x1958) {
                    self.guest.write(page + 6, &[0; 4]);
                    self.guest.write(page + 472, &self.faults.targets.unwrap_or(16).to_le_bytes());
                }
            }
            // It is enabled.
            10 => self.status = words[0],
            8 => {
                let pages = (0..words[0].min(16) as usize).map(|page| long(2 + 2 * page) << 12).collect();
                // As QEMU: the number of words.
                self.status = words.len() as u32;
                match &mut self.rings {
                    Some(rings) => rings.messages = pages,
                    None => self.status = FAILED,
                }
            }
            _ => {}
        }
    }

    /// Completes held commands with this host status.
    fn abort(&mut self, which: impl Fn(u64) -> bool, host_status: u16) {
        if self.faults.is_stuck {
            return;
        }
        let (aborted, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.held).into_iter().partition(|(context, _)| which(*context));
        self.held = rest;
        for (context, _) in aborted {
            self.complete(&completion(context, 0, 0, (host_status, 0)));
        }
    }

    fn message(&mut self, target: u8, is_added: bool) {
        let Some(rings) = &self.rings else { return };
        let Some(page) = rings.messages.first() else { return };
        let mut message = [0; 128];
        message[0] = u8::from(!is_added);
        message[8] = target;
        let state = rings.state;
        self.guest.write(page + 128 * u64::from(self.messaged % 32), &message);
        self.messaged = self.messaged.wrapping_add(1);
        self.guest.write(state + 128, &self.messaged.to_le_bytes());
        self.interrupt_status |= MESSAGE;
    }

    /// Executes the requests that the guest has published.
    fn serve(&mut self) {
        for _ in 0..MAX_COMMANDS {
            let Some(rings) = self.rings.as_ref().filter(|_| self.function.is_bus_master) else { return };
            let state = self.guest.read(rings.state, 8);
            if word(&state, 0) as u32 == self.consumed {
                return;
            }
            let index = self.consumed as usize % (32 * rings.requests.len());
            let request = self.guest.read(rings.requests[index / 32] + 128 * (index as u64 % 32), 128);
            self.consumed = self.consumed.wrapping_add(1);
            let state = rings.state;
            self.guest.write(state + 4, &self.consumed.to_le_bytes());
            let bytes = self.execute(&request);
            let context = word(&request, 0);
            match self.faults.holds {
                true => self.held.push((context, bytes)),
                false => self.complete(&bytes),
            }
        }
    }

    /// Executes a command and returns its completion.
    fn execute(&mut self, request: &[u8]) -> [u8; 32] {
        let context = word(request, 0);
        let flags = word(request, 32) >> 32;
        let (cdb, target, lun) = (&request[40..56], request[67], request[58]);
        self.commands.push(cdb[0]);
        if let Some(statuses) = self.faults.fail.pop_front() {
            return completion(context, 0, 0, statuses);
        }
        let places = self.places(request, flags);
        let room: usize = places.iter().map(|(_, len)| len).sum();
        let data = if flags & 16 != 0 { gather(self.guest.memory(), &places) } else { vec![] };
        let Some(drive) = self.drives.get_mut(&target) else { return completion(context, 0, 0, (0x11, 0)) };
        let answer = match (lun, cdb[0]) {
            (0, 0xa0) => {
                let mut list = vec![0; 16];
                list[3] = 8;
                Answer::Data(list)
            }
            (0, _) => drive.run(cdb, &data, room),
            (_, 0x12) => Answer::Data([&[0x7f][..], &[0; 35]].concat()),
            _ => Answer::Sense(sense(5, 0x25, 0)),
        };
        let told = |transferred: usize| if self.faults.tells_lengths { transferred as u64 } else { 0 };
        let asked = word(request, 16) as usize;
        match answer {
            Answer::Data(bytes) => {
                let written = scatter(self.guest.memory(), &places, &bytes);
                let host = if written < asked { 0x12 } else { 0 };
                completion(context, told(written), 0, (host, 0))
            }
            Answer::Done(_) => completion(context, told(asked), 0, (0, 0)),
            Answer::Sense(bytes) => {
                self.guest.write(word(request, 24), &bytes);
                completion(context, 0, bytes.len() as u32, (if asked > 0 { 0x12 } else { 0 }, 2))
            }
        }
    }

    /// The pieces of memory of a request.
    fn places(&self, request: &[u8], flags: u64) -> Vec<(u64, usize)> {
        let (address, len) = (word(request, 8), (word(request, 16) as usize).min(MAX_BYTES));
        if flags & 1 == 0 {
            return vec![(address, len)];
        }
        let (mut places, mut left) = (vec![], len);
        for index in 0..MAX_ELEMENTS {
            if left == 0 {
                break;
            }
            let element = self.guest.read(address + 16 * index as u64, 16);
            let now = left.min(word(&element, 8) as u32 as usize);
            places.push((word(&element, 0), now));
            left -= now;
        }
        places
    }

    fn complete(&mut self, bytes: &[u8; 32]) {
        for _ in 0..if self.faults.twice { 2 } else { 1 } {
            let Some(rings) = self.rings.as_ref().filter(|_| self.function.is_bus_master) else { return };
            let mut bytes = *bytes;
            if let Some(mutate) = &mut self.faults.mutate {
                mutate(&mut bytes);
            }
            let index = self.produced as usize % (128 * rings.completions.len());
            self.guest.write(rings.completions[index / 128] + 32 * (index as u64 % 128), &bytes);
            self.produced = self.produced.wrapping_add(1);
            self.guest.write(rings.state + 12, &self.produced.to_le_bytes());
            self.interrupt_status |= COMPLETION;
        }
    }
}

/// A completion: context, length, length of sense data, and the statuses of host and target.
fn completion(context: u64, len: u64, sense: u32, (host, scsi): (u16, u16)) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&context.to_le_bytes());
    bytes[8..16].copy_from_slice(&len.to_le_bytes());
    bytes[16..20].copy_from_slice(&sense.to_le_bytes());
    bytes[20..22].copy_from_slice(&host.to_le_bytes());
    bytes[22..24].copy_from_slice(&scsi.to_le_bytes());
    bytes
}

impl Model for PvscsiHost {
    fn function<R>(&self, work: impl FnOnce(&mut Function) -> R) -> R {
        self.with(|host| work(&mut host.function))
    }

    fn read(&self, _bar: u8, offset: usize) -> u32 {
        self.with(|host| match offset {
            8 => host.status,
            0x100c => host.interrupt_status,
            _ => u32::MAX,
        })
    }

    fn write(&self, _bar: u8, offset: usize, value: u32) {
        self.act(|host| match offset {
            0 => host.begin(value),
            4 => host.push_word(value),
            0x100c => host.interrupt_status &= !value,
            0x2010 => host.interrupt_mask = value,
            0x3014 | 0x4018 => {
                host.kicks[usize::from(offset == 0x3014)] += 1;
                host.serve();
            }
            _ => {}
        });
    }
}
