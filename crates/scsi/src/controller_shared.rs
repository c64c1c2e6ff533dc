//! A controller: its lanes, the commands of its own, and what is done when it does not answer.
//!
//! # Recovery
//!
//! ```text
//!   running ─ a deadline passes ─► RESET_BUS ─ all came back in time ─► running
//!                                      │ they did not
//!                                      ▼
//!             ports closed ─ the host confirms ─► everything aborted ─► opened again, scanned again ─► running
//!                    └────── it does not ───────► buffers leaked ─► out of service (Timeout)
//! ```
//!
//! A port that fails (protocol, removed) goes the same way from "ports closed" on, and stays out of service.

use crate::Cdb;
use crate::lane::{Lane, MOST_OWNERS, NOBODY, RESET_ID};
use crate::port::{Adapter, Address, Limits, Port};
use crate::shared::{MOST_UNITS, Phase, Shared, Stage, Unit};
use crate::slot::{Data, Wanted};
use core::fmt;
use core::mem::ManuallyDrop;
use core::task::Waker;
use core::time::Duration;
use paravirt_device::{Fault, IoError, Rejected};
use paravirt_platform::{
    AllocError, Direction, DmaBuffer, DmaRegion, PAGE_SIZE, PageArc, PageTable, Platform, Segment,
};
use spin::Mutex;

/// How long a command of the controller's own may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);
/// How long what is under way has to come back after a reset of the bus.
const GRACE: Duration = Duration::from_secs(5);
/// Ports that are used, at most.
pub(crate) const MOST_PORTS: usize = 16;
/// The owner that is the controller itself.
pub(crate) const CONTROLLER: u16 = 0;

const _: () = assert!(MOST_UNITS + 1 < MOST_OWNERS);

/// Bytes of an answer to a command of its own, at most.
pub(crate) const MOST_ANSWER: usize = 1024;
/// A block that no unit has.
const OUT_OF_RANGE: u64 = 0xffff_ffff_ffff_0000;

/// Why a controller could not be opened.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum OpenError {
    /// There was no memory.
    Memory,
    /// The controller does not work.
    Faulted(Fault),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => AllocError.fmt(f),
            Self::Faulted(fault) => fault.fmt(f),
        }
    }
}

impl core::error::Error for OpenError {}

impl From<AllocError> for OpenError {
    fn from(_: AllocError) -> Self {
        Self::Memory
    }
}

impl From<Fault> for OpenError {
    fn from(fault: Fault) -> Self {
        Self::Faulted(fault)
    }
}

/// How a command of the controller's own failed.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum CommandError {
    /// The unit refused it, or it was aborted.
    Io(IoError),
    /// There is no such unit.
    Absent,
    /// The controller is out of service.
    Faulted(Fault),
}

impl From<IoError> for CommandError {
    fn from(error: IoError) -> Self {
        Self::Io(error)
    }
}

impl From<Fault> for CommandError {
    fn from(fault: Fault) -> Self {
        Self::Faulted(fault)
    }
}

/// What one at a time may do.
pub(crate) struct Control<P: Platform, A> {
    pub adapter: A,
    /// Where the answers to its own commands go. `None` once it was leaked.
    page: Option<DmaRegion<P>>,
}

pub(crate) struct Core<P: Platform, A: Adapter, B: DmaBuffer> {
    pub lanes: PageTable<P, Mutex<Lane<P, A::Port, B>>>,
    pub control: Mutex<Control<P, A>>,
    pub shared: Shared<P>,
    /// A page of zeroes, for WRITE SAME. Leaked where the host did not let go.
    zeroes: ManuallyDrop<DmaRegion<P>>,
    pub limits: Limits,
}

impl<P: Platform, A: Adapter, B: DmaBuffer> Core<P, A, B> {
    /// Opens up to `ports` ports of `adapter`, for queues of `depth` commands.
    pub fn open(
        platform: &P,
        mut adapter: A,
        ports: usize,
        depth: u16,
    ) -> Result<PageArc<P, Self>, OpenError> {
        let shared = Shared::new(platform)?;
        let page = DmaRegion::alloc(platform, PAGE_SIZE)?;
        let zeroes = ManuallyDrop::new(DmaRegion::alloc(platform, PAGE_SIZE)?);
        let first = adapter.open(0, ports)?.ok_or(Fault::Refused)?;
        let mut opened = [const { None }; MOST_PORTS];
        let mut count = 0usize;
        for (index, slot) in opened.iter_mut().enumerate().take(ports.max(1)) {
            *slot = if index == 0 { None } else { adapter.open(index, ports)? };
            if index > 0 && slot.is_none() {
                break;
            }
            count = index.saturating_add(1);
        }
        if let Some(slot) = opened.first_mut() {
            *slot = Some(first);
        }
        let limits = adapter.limits();
        let lanes = PageTable::try_new(platform, count, |at| {
            let mut lane = Lane::new(platform, MOST_UNITS.saturating_add(1), depth)?;
            if let Some(mut port) = opened.get_mut(at).and_then(Option::take) {
                port.register(&lane.wakers.waker());
                lane.port = Some(port);
            }
            Ok::<_, AllocError>(Mutex::new(lane))
        })?;
        shared.set_phase(Phase::Running);
        let control = Mutex::new(Control { adapter, page: Some(page) });
        Ok(PageArc::new(platform, Self { lanes, control, shared, zeroes, limits })?)
    }

    /// A block of zeroes.
    pub fn zeroes(&self, len: u32) -> Segment {
        Segment { addr: self.zeroes.bus(), len }
    }

    #[inline(always)]
    pub fn lane(&self, index: usize) -> Option<&Mutex<Lane<P, A::Port, B>>> {
        self.lanes.get(index)
    }

    /// The fault that keeps commands out.
    #[inline(always)]
    pub fn fault(&self) -> Option<Fault> {
        match self.shared.phase() {
            Phase::Running => None,
            Phase::Resetting => Some(Fault::Reset),
            Phase::Down(fault) => Some(fault),
        }
    }

    /// Takes in what came on every lane; the fault of the first that fails.
    fn pump(&self) -> Result<(), Fault> {
        self.lanes.iter().try_for_each(|lane| lane.lock().pump(&self.shared, NOBODY))
    }

    fn outstanding(&self) -> usize {
        self.lanes.iter().map(|lane| lane.lock().outstanding()).sum()
    }

    /// Asks the controller to abort what is under way, as a deadline has passed.
    pub fn begin_reset(&self) {
        if self.shared.begin_reset(self.shared.now().saturating_add(GRACE)) {
            log::warn!("scsi: a command is late: resetting the bus");
            if let Some(lane) = self.lanes.first() {
                let mut lane = lane.lock();
                if let Some(port) = &mut lane.port {
                    // Where there is no room for it, what is under way has its time to come back all the same.
                    let _ = port.reset_bus(RESET_ID);
                    port.kick();
                }
            }
            self.shared.wake_units();
        }
    }

    /// Goes on with a reset that was begun: ends it where everything came back, or closes the ports where the time is up.
    pub fn continue_reset(&self) -> Result<(), Fault> {
        // Ahead of the phase: what another one does meanwhile then shows.
        let epoch = self.shared.epoch();
        if self.shared.phase() == Phase::Resetting {
            if let Err(fault) = self.pump() {
                return self.recover(epoch, fault);
            }
            if self.outstanding() == 0 {
                self.shared.end_reset();
                self.resumed();
            } else if self.shared.now() >= self.shared.reset_until() {
                return self.recover(epoch, Fault::Reset);
            }
        }
        Ok(())
    }

    /// The controller is in service again: what was refused meanwhile is looked at again.
    fn resumed(&self) {
        self.shared.want_scan();
        self.shared.units.iter().filter(|unit| unit.is_present()).for_each(Unit::set_changed);
        self.shared.wake_units();
        self.lanes.iter().for_each(|lane| lane.lock().wakers.wake_all());
    }

    /// Closes the ports because of `fault`, unless that was done since `epoch`; with [`Fault::Reset`] opens them again.
    #[cold]
    pub fn recover(&self, epoch: u32, fault: Fault) -> Result<(), Fault> {
        self.recover_with(&mut self.control.lock(), epoch, fault)
    }

    fn recover_with(&self, control: &mut Control<P, A>, epoch: u32, fault: Fault) -> Result<(), Fault> {
        if self.shared.epoch() != epoch {
            return match self.shared.phase() {
                Phase::Down(fault) if fault != Fault::Reset => Err(fault),
                _ => Ok(()),
            };
        }
        if let Phase::Down(fault) = self.shared.phase()
            && fault != Fault::Reset
        {
            return Err(fault);
        }
        self.shared.set_phase(Phase::Down(Fault::Reset));
        let closed = self.close(control);
        let mut fault = closed.err().unwrap_or(fault);
        if fault == Fault::Reset
            && let Err(error) = self.open_again(control)
        {
            // What was opened of it is closed again.
            let closed = self.close(control);
            let error = if error == Fault::Reset { Fault::Refused } else { error };
            fault = closed.err().unwrap_or(error);
        }
        self.shared.next_epoch();
        let result = if fault == Fault::Reset { Ok(()) } else { Err(fault) };
        match result {
            Ok(()) => self.shared.set_phase(Phase::Running),
            Err(fault) => {
                log::error!("scsi: controller out of service: {fault}");
                self.shared.set_phase(Phase::Down(fault));
            }
        }
        self.resumed();
        result
    }

    /// Closes all ports, and ends what is under way. An error where the host did not confirm that it has let go.
    fn close(&self, control: &mut Control<P, A>) -> Result<(), Fault> {
        let mut closed = Ok(());
        for lane in self.lanes.iter().rev() {
            // Out of the lane's lock, as it takes its time.
            let port = lane.lock().port.take();
            if let Some(mut port) = port {
                port.register(Waker::noop());
                closed = closed.and(control.adapter.close(port));
            }
        }
        self.lanes.iter().for_each(|lane| lane.lock().end(closed.is_ok()));
        if closed.is_err() {
            control.page.take().into_iter().for_each(DmaRegion::leak);
        }
        closed
    }

    fn open_again(&self, control: &mut Control<P, A>) -> Result<(), Fault> {
        for (index, lane) in self.lanes.iter().enumerate() {
            let mut port = control.adapter.open(index, self.lanes.len())?.ok_or(Fault::Refused)?;
            let mut lane = lane.lock();
            port.register(&lane.wakers.waker());
            lane.port = Some(port);
        }
        if control.adapter.limits() == self.limits { Ok(()) } else { Err(Fault::Refused) }
    }

    /// Sends a command of the controller's own and waits for it. What it answers is in `answer`, whose length is what it
    /// is asked for; the bytes that it says it has written come back.
    pub fn command(
        &self,
        control: &mut Control<P, A>,
        address: Address,
        cdb: Cdb,
        answer: &mut [u8],
    ) -> Result<usize, CommandError> {
        let len = answer.len().min(MOST_ANSWER);
        let page = control.page.as_ref().ok_or(Fault::Timeout)?;
        let data = match u32::try_from(len) {
            Ok(len) if len > 0 => {
                // Nothing is taken for an answer that was not written.
                page.shared().copy_in(0, &[0; MOST_ANSWER]);
                Data::Own(Segment { addr: page.bus(), len }, Direction::FromDevice)
            }
            _ => Data::None,
        };
        let transferred = self.wait(control, address, cdb, data)?.min(len);
        let page = control.page.as_ref().ok_or(Fault::Timeout)?;
        answer.fill(0);
        if let Some(answer) = answer.get_mut(..transferred) {
            page.shared().copy_out(0, answer);
        }
        Ok(transferred)
    }

    /// Whether the unit knows WRITE SAME (16): asked of a block that there is not, so that nothing is written.
    pub fn knows_write_same(
        &self,
        control: &mut Control<P, A>,
        address: Address,
        block_size: u32,
    ) -> Result<bool, Fault> {
        let data = Data::Own(self.zeroes(block_size), Direction::ToDevice);
        match self.wait(control, address, Cdb::write_same(OUT_OF_RANGE, 1, false), data) {
            Err(CommandError::Faulted(fault)) => Err(fault),
            // Out of range is what a unit says that knows the command.
            Err(CommandError::Io(error)) => Ok(error == IoError::Device),
            Ok(_) | Err(CommandError::Absent) => Ok(false),
        }
    }

    fn wait(
        &self,
        control: &mut Control<P, A>,
        address: Address,
        cdb: Cdb,
        data: Data<B>,
    ) -> Result<usize, CommandError> {
        let mut epoch = self.shared.epoch();
        let lane = self.lanes.first().ok_or(Fault::Refused)?;
        // Of a command that was given up.
        while lane.lock().take(CONTROLLER).is_some() {}
        let deadline = self.shared.now().saturating_add(COMMAND_TIMEOUT);
        let mut wanted = Wanted { tag: 0, deadline, address, stage: Stage::Last, data };
        loop {
            if let Some(fault) = self.fault() {
                return Err(fault.into());
            }
            let sent = {
                let mut lane = lane.lock();
                let sent = lane.submit(CONTROLLER, wanted, cdb);
                if let Some(port) = &mut lane.port {
                    port.kick();
                }
                sent
            };
            match sent {
                Ok(()) => break,
                Err((Rejected::Full, data)) if self.shared.now() < deadline => {
                    wanted = Wanted { tag: 0, deadline, address, stage: Stage::Last, data };
                }
                Err((Rejected::Faulted(fault), _)) => return Err(fault.into()),
                Err(_) => return Err(Fault::Refused.into()),
            }
            // Others have to be served for there to be room.
            let pumped = lane.lock().pump(&self.shared, NOBODY);
            if let Err(fault) = pumped {
                self.recover_with(control, epoch, fault)?;
                epoch = self.shared.epoch();
            }
            self.shared.platform.relax();
        }
        loop {
            let (pumped, done) = {
                let mut lane = lane.lock();
                (lane.pump(&self.shared, NOBODY), lane.take(CONTROLLER))
            };
            if let Some(done) = done {
                if done.is_absent {
                    return Err(CommandError::Absent);
                }
                done.result?;
                return Ok(done.transferred as usize);
            }
            let now = self.shared.now();
            if let Err(fault) = pumped {
                self.recover_with(control, epoch, fault)?;
                epoch = self.shared.epoch();
            } else if self.shared.phase() == Phase::Resetting {
                let pumped = self.pump();
                if self.outstanding() == 0 {
                    self.shared.end_reset();
                    self.resumed();
                } else if pumped.is_err() || now >= self.shared.reset_until() {
                    self.recover_with(control, epoch, pumped.err().unwrap_or(Fault::Reset))?;
                    epoch = self.shared.epoch();
                }
            } else if now >= deadline {
                self.begin_reset();
            }
            self.shared.platform.relax();
        }
    }
}

impl<P: Platform, A: Adapter, B: DmaBuffer> Drop for Core<P, A, B> {
    fn drop(&mut self) {
        let has_let_go = {
            let mut control = self.control.lock();
            self.close(&mut control).is_ok() && control.page.is_some()
        };
        if has_let_go {
            // SAFETY: it is dropped once, here, and not used after.
            unsafe { ManuallyDrop::drop(&mut self.zeroes) };
        }
    }
}
