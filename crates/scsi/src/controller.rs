//! The public side of a controller: the disks that are found on it, and events.

use crate::controller_shared::{CommandError, Control, ControllerShared, MAX_ANSWER, MAX_PORTS};
use crate::data::{self, Peripheral};
use crate::disk::Disk;
use crate::identify::{Ignored, identify, look};
use crate::owner::{CONTROLLER, NOBODY};
use crate::transport::{Address, Scan, ScsiTransport};
use crate::unit::{MAX_UNITS, Unit};
use crate::{Cdb, OpenError};
use core::fmt;
use core::task::Waker;
use core::time::Duration;
use paravirt_device::{Arm, Fault};
use paravirt_platform::{AllocError, DmaBuffer, PageArc, PageBox, Platform};

/// The first address.
const ZERO: Address = Address { path: 0, target: 0, lun: 0 };
/// Units of a target that does not report them, at most.
const MAX_SEQUENTIAL: u16 = 64;

/// How a controller is opened.
#[derive(Copy, Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// Upper limit of the queues of each disk, 16 at most; a port is opened for each. Usually the number of processors.
    pub queues: u16,
    /// Upper limit of the requests in flight on one queue: 1 to 1024.
    pub depth: u16,
    /// How long a command of the controller's own may take. 180 seconds by default: hosts under load need tens of seconds.
    pub command_timeout: Duration,
    /// How long commands in flight may take to complete after a bus reset, before the ports are closed and opened again. 60 seconds
    /// by default.
    pub reset_timeout: Duration,
}

impl Options {
    /// Options for up to `queues` queues of `depth` requests each.
    pub const fn new(queues: u16, depth: u16) -> Self {
        let (command_timeout, reset_timeout) = (Duration::from_secs(180), Duration::from_secs(60));
        Self { queues, depth, command_timeout, reset_timeout }
    }

    /// Sets [`command_timeout`](Self::command_timeout).
    #[must_use]
    pub const fn with_command_timeout(self, command_timeout: Duration) -> Self {
        Self { command_timeout, ..self }
    }

    /// Sets [`reset_timeout`](Self::reset_timeout).
    #[must_use]
    pub const fn with_reset_timeout(self, reset_timeout: Duration) -> Self {
        Self { reset_timeout, ..self }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self::new(1, 128)
    }
}

/// An event of a controller.
#[allow(clippy::large_enum_variant, reason = "an event is looked at once, and not stored")]
#[non_exhaustive]
pub enum ControllerEvent<P: Platform, T: ScsiTransport, B: DmaBuffer> {
    /// A disk was found.
    Added(Disk<P, T, B>),
    /// The disk at this address was removed: its owner drops it.
    Removed(Address),
    /// The host reports a unit at this address that is no disk for this crate. Reported again by each scan.
    Ignored(Address, Ignored),
    /// The controller and all of its disks are out of service.
    Faulted(Fault),
}

impl<P: Platform, T: ScsiTransport, B: DmaBuffer> fmt::Debug for ControllerEvent<P, T, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Added(disk) => f.debug_tuple("Added").field(disk).finish(),
            Self::Removed(address) => f.debug_tuple("Removed").field(address).finish(),
            Self::Ignored(address, reason) => f.debug_tuple("Ignored").field(address).field(reason).finish(),
            Self::Faulted(fault) => f.debug_tuple("Faulted").field(fault).finish(),
        }
    }
}

/// What scans have found.
struct ScanState {
    progress: Progress,
    /// Whether a scan is to be continued.
    is_under_way: bool,
    /// The units that a target reports.
    answer: [u8; MAX_ANSWER],
    /// Addresses of new units, in reverse order.
    found: [Address; MAX_UNITS],
    count: usize,
}

/// How far a scan has come.
struct Progress {
    /// The path and the target that are asked next.
    path: u8,
    target: u16,
    /// Whether that target did not answer already.
    is_second_try: bool,
    /// The units that were found.
    there: [Address; MAX_UNITS],
    len: usize,
    /// The known unit that is compared next.
    unit: usize,
}

impl ScanState {
    const NEW: Self = Self {
        progress: Progress {
            path: 0,
            target: 0,
            is_second_try: false,
            there: [ZERO; MAX_UNITS],
            len: 0,
            unit: 0,
        },
        is_under_way: false,
        answer: [0; MAX_ANSWER],
        found: [ZERO; MAX_UNITS],
        count: 0,
    };

    /// Adds the units of a scan that has ended, but for those that `is_known` holds for.
    fn end(&mut self, is_known: impl Fn(Address) -> bool) {
        let Self { progress, found, count, .. } = self;
        // In reverse order, so that the first is popped first.
        for address in progress.there.get(..progress.len).unwrap_or_default().iter().rev() {
            if !is_known(*address) {
                if let Some(place) = found.get_mut(*count) {
                    *place = *address;
                    *count = count.saturating_add(1);
                }
            }
        }
    }

    /// Returns the address of a new unit.
    fn pop(&mut self) -> Option<Address> {
        self.count = self.count.checked_sub(1)?;
        self.found.get(self.count).copied()
    }
}

/// A controller. It stays open until the last of its disks and their queues has been dropped too.
pub struct Controller<P: Platform, T: ScsiTransport, B: DmaBuffer> {
    shared: PageArc<P, ControllerShared<P, T, B>>,
    depth: u16,
    /// In pages of its own: it is large for a small stack.
    scan: PageBox<P, ScanState>,
    reported: Option<Fault>,
}

impl<P: Platform, T: ScsiTransport, B: DmaBuffer> fmt::Debug for Controller<P, T, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Controller")
            .field("queues", &self.queues())
            .field("fault", &self.shared.fault())
            .finish_non_exhaustive()
    }
}

#[inline(never)]
fn new_scan<P: Platform>(platform: &P) -> Result<PageBox<P, ScanState>, AllocError> {
    PageBox::new(platform, ScanState::NEW)
}

impl<P: Platform, T: ScsiTransport, B: DmaBuffer> Controller<P, T, B> {
    /// Opens the controller of `transport`. [`poll`](Self::poll) returns its disks. Blocks as [`ScsiTransport::open`] does.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; the transport is then closed.
    #[inline(never)]
    pub fn open(platform: &P, transport: T, options: &Options) -> Result<Self, OpenError> {
        let ports = usize::from(options.queues).clamp(1, MAX_PORTS);
        let depth = options.depth.clamp(1, 1024);
        let scan = new_scan(platform)?;
        let shared = ControllerShared::open(platform, transport, ports, options)?;
        Ok(Self { shared, depth, scan, reported: None })
    }

    /// The next event since the last call; the first ones are the disks that are there.
    ///
    /// Scans where the host has reported that units were added or removed, or identifies one new unit. Blocks for the commands of that:
    /// one for each target and about three for each known unit of a scan, about twelve for a new unit. Each has
    /// [`Options::command_timeout`]; after the first one that is not answered in time, and its recovery, no more are sent by this call,
    /// and the next one goes on behind it.
    pub fn poll(&mut self) -> Option<ControllerEvent<P, T, B>> {
        self.receive();
        if let Some(fault) = self.shared.fault() {
            if fault == Fault::Reset || self.reported == Some(fault) {
                return None;
            }
            self.reported = Some(fault);
            return Some(ControllerEvent::Faulted(fault));
        }
        self.shared.control.lock().is_late = false;
        if self.scan.count == 0 && self.shared.state.take_scan() {
            if let Err(fault) = self.look_for_units() {
                log::warn!("scsi: scan failed: {fault}: tried again after recovery");
                return None;
            }
        }
        let gone = self.shared.state.units.iter().find(|unit| unit.take_removal());
        if let Some(unit) = gone {
            return Some(ControllerEvent::Removed(unit.address()));
        }
        while let Some(address) = self.scan.pop() {
            match self.open_disk(address) {
                Ok(Ok(disk)) => return Some(ControllerEvent::Added(disk)),
                Err(_) => return None,
                Ok(Err(Ignored::Absent)) => {}
                Ok(Err(ignored)) => {
                    log::warn!("scsi: unit {address}: {ignored}");
                    return Some(ControllerEvent::Ignored(address, ignored));
                }
            }
        }
        None
    }

    /// Identifies a unit, in a frame that the caller's does not include.
    #[inline(never)]
    fn open_disk(&self, address: Address) -> Result<Result<Disk<P, T, B>, Ignored>, Fault> {
        let control = &mut self.shared.control.lock();
        let identity = identify(&self.shared, control, address, self.depth);
        if control.is_late {
            return Ok(Err(Ignored::Silent));
        }
        Ok(identity?.and_then(|identity| Disk::new(&self.shared, address, &identity).ok_or(Ignored::TooMany)))
    }

    /// Receives what the host sent, which may be that units were added or removed.
    fn receive(&self) {
        let _ = self.shared.continue_reset();
        let epoch = self.shared.state.epoch();
        for (at, port) in self.shared.ports.iter().enumerate() {
            let mut port = port.lock();
            if at > 0 && !port.has_orphans() {
                continue;
            }
            let owner = if at == 0 { CONTROLLER } else { NOBODY };
            let received = port.receive_for_others(&self.shared.state, owner);
            drop(port);
            if let Err(fault) = received {
                if self.shared.fault().is_none() {
                    let _ = self.shared.recover(epoch, fault);
                }
            }
        }
    }

    /// Registers the task to wake for the next event.
    pub fn register(&self, waker: &Waker) {
        self.shared.state.cell.register(waker);
        if let Some(port) = self.shared.port(0) {
            port.lock().wakers.register(usize::from(CONTROLLER), waker);
        }
    }

    /// Whether the next event wakes the task of [`register`](Self::register), or there is one already.
    #[must_use]
    pub fn arm(&self) -> Arm {
        match self.shared.fault() {
            None if self.shared.state.is_scan_due() || self.scan.count > 0 => return Arm::Pending,
            Some(fault) if fault != Fault::Reset => {
                return if self.reported == Some(fault) { Arm::Armed } else { Arm::Pending };
            }
            _ => {}
        }
        self.shared.port(0).map_or(Arm::Armed, |port| port.lock().arm(CONTROLLER))
    }

    /// Returns how many replies of the host named no command in flight. They are ignored: no memory depends on them.
    pub fn stray_replies(&self) -> u64 {
        self.shared.state.strays()
    }

    /// The number of queues of each disk.
    pub fn queues(&self) -> usize {
        self.shared.ports.len()
    }

    /// Scans for units: marks those that are gone, and records the addresses of new ones. If a command is not answered in time, leaves the
    /// rest to the next call. REPORT LUNS, SPC-4 §6.33
    #[inline(never)]
    fn look_for_units(&mut self) -> Result<(), Fault> {
        let Self { shared, scan, .. } = self;
        let scan = &mut **scan;
        let control = &mut *shared.control.lock();
        if !core::mem::take(&mut scan.is_under_way) {
            scan.progress = ScanState::NEW.progress;
        }
        let is_over = Self::ask_targets(shared, control, &mut scan.progress, &mut scan.answer)?
            && Self::compare_units(shared, control, &mut scan.progress)?;
        if is_over {
            scan.end(|address| shared.state.has_unit(address));
        } else {
            scan.is_under_way = true;
            shared.state.request_scan();
        }
        Ok(())
    }

    /// Collects the addresses of the units that the targets report; returns whether all were asked.
    fn ask_targets(
        shared: &ControllerShared<P, T, B>,
        control: &mut Control<P, T, B>,
        progress: &mut Progress,
        answer: &mut [u8],
    ) -> Result<bool, Fault> {
        let Progress { path, target, is_second_try, there, len, .. } = progress;
        let mut add = |address| match there.get_mut(*len) {
            Some(place) => {
                *place = address;
                *len = len.saturating_add(1);
            }
            None => log::warn!("scsi: unit {address}: {}", Ignored::TooMany),
        };
        let (paths, targets) = match control.transport.scan() {
            Scan::One(address) => {
                if *path == 0 {
                    add(address);
                    *path = 1;
                }
                (0, 0)
            }
            Scan::Targets(targets) => (1, targets),
            Scan::Paths { paths, targets } => (paths, targets),
        };
        while *path < paths {
            while let Ok(next) = u8::try_from(*target) {
                if *target >= targets {
                    break;
                }
                *target = target.saturating_add(1);
                let address = Address { path: *path, target: next, lun: 0 };
                Self::scan_target(shared, control, address, answer, &mut add)?;
                let is_again = core::mem::take(is_second_try);
                if control.is_late && !is_again {
                    // Its answer may have been lost.
                    (*target, *is_second_try) = (u16::from(next), true);
                    return Ok(false);
                }
                if control.is_late {
                    // It does not answer: what is known of it stays.
                    let known = shared.state.units.iter().filter(|unit| unit.is_present());
                    known
                        .map(Unit::address)
                        .filter(|a| (a.path, a.target) == (address.path, next))
                        .for_each(&mut add);
                    return Ok(false);
                }
            }
            (*path, *target) = (path.saturating_add(1), 0);
        }
        // In the order of addresses, whatever order the host lists them in.
        if let Some(there) = there.get_mut(..*len) {
            sort(there);
        }
        Ok(true)
    }

    /// Compares the known units with what is there now; returns whether all were compared.
    fn compare_units(
        shared: &ControllerShared<P, T, B>,
        control: &mut Control<P, T, B>,
        progress: &mut Progress,
    ) -> Result<bool, Fault> {
        let there = progress.there.get(..progress.len).unwrap_or_default();
        while let Some(unit) = shared.state.units.get(progress.unit) {
            progress.unit = progress.unit.saturating_add(1);
            if !unit.is_present() {
                continue;
            }
            let address = unit.address();
            let is_same = there.contains(&address) && {
                look(shared, control, address)?
                    .is_none_or(|found| found.peripheral != Peripheral::None && unit.is_same(&found))
            };
            if is_same {
                unit.set_changed();
            } else {
                unit.set_gone();
            }
            if control.is_late {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Adds the units of the target of `address`: as it reports them, or, of a target that does not, one by one until one is absent.
    fn scan_target(
        shared: &ControllerShared<P, T, B>,
        control: &mut Control<P, T, B>,
        address: Address,
        answer: &mut [u8],
        add: &mut impl FnMut(Address),
    ) -> Result<(), Fault> {
        match shared.command(control, address, Cdb::report_luns(answer.len() as u32), answer) {
            Ok(len) => {
                let luns = data::luns(answer.get(..len).unwrap_or_default());
                luns.for_each(|lun| add(Address { lun, ..address }));
                return Ok(());
            }
            Err(CommandError::Faulted(fault)) => return Err(fault),
            Err(CommandError::Absent) => return Ok(()),
            Err(CommandError::Io(error)) => {
                log::info!(
                    "scsi: {address}: REPORT LUNS failed: {error}: its units are looked for one by one"
                );
            }
        }
        for lun in 0..MAX_SEQUENTIAL {
            let address = Address { lun, ..address };
            match look(shared, control, address)? {
                Some(found) if found.peripheral != Peripheral::None => add(address),
                // No answer: a disk that was there before stays.
                None if shared.state.has_unit(address) => add(address),
                _ => break,
            }
        }
        Ok(())
    }
}

/// Sorts by insertion: the lists are short, and the sort of `core` is a hundred times as much code, which can panic.
fn sort(list: &mut [Address]) {
    for end in 1..list.len() {
        let mut at = end;
        while let Some([before, last]) = at.checked_sub(1).and_then(|before| list.get_mut(before..=at)) {
            if *before <= *last {
                break;
            }
            core::mem::swap(before, last);
            at = at.saturating_sub(1);
        }
    }
}
