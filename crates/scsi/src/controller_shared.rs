//! A controller: its ports, the commands of its own, and its recovery. The crate's head draws the states of the latter.

use crate::command::{Data, PendingCommand, RESET_ID, Stage};
use crate::command_table::CommandTable;
use crate::owner::{CONTROLLER, MAX_OWNERS, NOBODY};
use crate::port_state::PortState;
use crate::state::{ControllerState, Phase};
use crate::transport::{Address, Limits, ScsiPort, ScsiTransport};
use crate::unit::{MAX_UNITS, Unit};
use crate::{Cdb, OpenError, Options};
use core::mem::ManuallyDrop;
use core::task::Waker;
use core::time::Duration;
use paravirt_device::{Fault, IoError, Rejected};
use paravirt_platform::{
    AllocError, Direction, DmaBuffer, DmaRegion, PAGE_SIZE, PageArc, PageTable, Platform, Segment,
};
use spin::Mutex;

/// Ports of a controller that are used.
pub(crate) const MAX_PORTS: usize = 16;
/// Bytes of the data that a command of the controller's own returns.
pub(crate) const MAX_ANSWER: usize = 1024;
/// A block that no unit has.
const OUT_OF_RANGE: u64 = 0xffff_ffff_ffff_0000;

const _: () = assert!(MAX_UNITS + 1 < MAX_OWNERS);

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

/// What is used by one at a time: the transport, and the controller's own commands.
pub(crate) struct Control<P: Platform, T, B> {
    pub transport: T,
    /// Where the data of its own commands go. `None` once it was leaked.
    page: Option<DmaRegion<P>>,
    table: CommandTable<P, B>,
    /// Whether a command was not answered by its deadline since [`Controller::poll`](crate::Controller::poll) was called: it sends no more
    /// then, so that a silent unit costs one deadline and not one for each command.
    pub is_late: bool,
}

type Ports<P, Q, B> = PageTable<P, Mutex<PortState<P, Q, B>>>;

/// Opens up to `wanted` ports of `transport`, each with its state.
#[inline(never)]
fn open_ports<P: Platform, T: ScsiTransport, B: DmaBuffer>(
    platform: &P,
    transport: &mut T,
    wanted: usize,
) -> Result<Ports<P, T::Port, B>, OpenError> {
    // In pages of their own: on a small stack there is no room for them.
    let mut opened = PageTable::new(platform, wanted, |_| None)?;
    if let Err(fault) = open_each(transport, &mut opened) {
        // In the order of `close`.
        opened.iter_mut().rev().for_each(|port| *port = None);
        return Err(fault.into());
    }
    let count = opened.iter().flatten().count();
    if count == 0 {
        return Err(Fault::Refused.into());
    }
    let mut ports: Ports<P, T::Port, B> = closed_ports(platform, count)?;
    for (state, port) in ports.iter_mut().zip(opened.iter_mut()) {
        move_port(state.get_mut(), port);
    }
    Ok(ports)
}

/// Opens the ports of `transport` in their places, as many as there are.
fn open_each<T: ScsiTransport>(transport: &mut T, places: &mut [Option<T::Port>]) -> Result<(), Fault> {
    let wanted = places.len();
    for (index, place) in places.iter_mut().enumerate() {
        transport.open(index, wanted, place)?;
        if place.is_none() {
            break;
        }
    }
    Ok(())
}

#[inline(never)]
fn closed_ports<P: Platform, Q: ScsiPort, B: DmaBuffer>(
    platform: &P,
    count: usize,
) -> Result<Ports<P, Q, B>, AllocError> {
    PageTable::try_new(platform, count, |_| PortState::new(platform))
}

#[inline(never)]
fn move_port<P: Platform, Q: ScsiPort, B: DmaBuffer>(state: &mut PortState<P, Q, B>, port: &mut Option<Q>) {
    port.iter_mut().for_each(|port| port.register(&state.wakers.waker()));
    core::mem::swap(&mut state.port, port);
}

/// How long the host may take: see [`Options`].
struct Timeouts {
    command: Duration,
    reset: Duration,
}

pub(crate) struct ControllerShared<P: Platform, T: ScsiTransport, B: DmaBuffer> {
    timeouts: Timeouts,
    pub ports: Ports<P, T::Port, B>,
    pub control: Mutex<Control<P, T, B>>,
    pub state: ControllerState<P>,
    /// A page of zeroes, for WRITE SAME. Leaked where the host did not release it.
    zeroes: ManuallyDrop<DmaRegion<P>>,
    pub limits: Limits,
}

impl<P: Platform, T: ScsiTransport, B: DmaBuffer> ControllerShared<P, T, B> {
    /// Opens up to `ports` ports of `transport`.
    #[inline(never)]
    pub fn open(
        platform: &P,
        mut transport: T,
        ports: usize,
        options: &Options,
    ) -> Result<PageArc<P, Self>, OpenError> {
        let state = ControllerState::new(platform)?;
        let page = DmaRegion::alloc(platform, PAGE_SIZE)?;
        // Freed where opening fails: the host has not been told of it.
        let zeroes = DmaRegion::alloc(platform, PAGE_SIZE)?;
        let table = CommandTable::new(platform, CONTROLLER, Address::default(), 1)?;
        let ports = open_ports(platform, &mut transport, ports)?;
        let limits = transport.limits();
        state.set_phase(Phase::Running);
        let control = Mutex::new(Control { transport, page: Some(page), table, is_late: false });
        let timeouts = Timeouts { command: options.command_timeout, reset: options.reset_timeout };
        let zeroes = ManuallyDrop::new(zeroes);
        Ok(PageArc::new(platform, Self { ports, control, state, zeroes, limits, timeouts })?)
    }

    /// A block of zeroes.
    pub fn zeroes(&self, len: u32) -> Segment {
        Segment { addr: self.zeroes.bus(), len }
    }

    #[inline(always)]
    pub fn port(&self, index: usize) -> Option<&Mutex<PortState<P, T::Port, B>>> {
        self.ports.get(index)
    }

    /// The fault that keeps commands out.
    #[inline(always)]
    pub fn fault(&self) -> Option<Fault> {
        match self.state.phase() {
            Phase::Running => None,
            Phase::Resetting => Some(Fault::Reset),
            Phase::Down(fault) => Some(fault),
        }
    }

    /// Receives on every port, for all owners; the fault of the first port that fails.
    fn receive(&self) -> Result<(), Fault> {
        self.ports.iter().try_for_each(|port| port.lock().receive_for_others(&self.state, NOBODY))
    }

    fn outstanding(&self) -> u32 {
        self.ports.iter().fold(0, |sum, port| sum.saturating_add(port.lock().outstanding()))
    }

    /// How long commands may take to end that the controller was asked to abort.
    pub fn reset_timeout(&self) -> Duration {
        self.timeouts.reset
    }

    /// Asks the controller to abort what is under way, as a deadline has passed.
    pub fn begin_reset(&self) {
        if self.state.begin_reset(self.state.now().saturating_add(self.timeouts.reset)) {
            log::warn!("scsi: a command is past its deadline: resetting the bus");
            if let Some(port) = self.ports.first() {
                if let Some(port) = &mut port.lock().port {
                    // If it cannot be sent, commands in flight have the same time to complete.
                    let _ = port.reset_bus(RESET_ID);
                    port.kick();
                }
            }
            self.state.wake_units();
        }
    }

    /// Continues a reset: ends it once everything has completed, or closes the ports once the time is up.
    pub fn continue_reset(&self) -> Result<(), Fault> {
        // Ahead of the phase: what another one does meanwhile then shows.
        let epoch = self.state.epoch();
        if self.state.phase() == Phase::Resetting {
            if let Err(fault) = self.receive() {
                return self.recover(epoch, fault);
            }
            if self.outstanding() == 0 {
                self.state.end_reset();
                self.resumed();
            } else if self.state.now() >= self.state.reset_until() {
                return self.recover(epoch, Fault::Reset);
            }
        }
        Ok(())
    }

    /// The controller is in service again: what was refused meanwhile is looked at again.
    fn resumed(&self) {
        self.state.request_scan();
        self.state.units.iter().filter(|unit| unit.is_present()).for_each(Unit::set_changed);
        self.state.wake_units();
        self.ports.iter().for_each(|port| port.lock().wakers.wake_all());
    }

    /// Closes the ports because of `fault`, unless that was done since `epoch`; with [`Fault::Reset`] opens them again.
    #[cold]
    pub fn recover(&self, epoch: u32, fault: Fault) -> Result<(), Fault> {
        self.recover_with(&mut self.control.lock(), epoch, fault)
    }

    fn recover_with(&self, control: &mut Control<P, T, B>, epoch: u32, fault: Fault) -> Result<(), Fault> {
        if self.state.epoch() != epoch {
            return match self.state.phase() {
                Phase::Down(fault) if fault != Fault::Reset => Err(fault),
                _ => Ok(()),
            };
        }
        if let Phase::Down(fault) = self.state.phase() {
            if fault != Fault::Reset {
                return Err(fault);
            }
        }
        self.state.set_phase(Phase::Down(Fault::Reset));
        let closed = self.close(control);
        let mut fault = closed.err().unwrap_or(fault);
        if fault == Fault::Reset {
            if let Err(error) = self.open_again(control) {
                // What was opened of it is closed again.
                let closed = self.close(control);
                let error = if error == Fault::Reset { Fault::Refused } else { error };
                fault = closed.err().unwrap_or(error);
            }
        }
        self.state.next_epoch();
        let result = if fault == Fault::Reset { Ok(()) } else { Err(fault) };
        match result {
            Ok(()) => self.state.set_phase(Phase::Running),
            Err(fault) => {
                log::error!("scsi: controller out of service: {fault}");
                self.state.set_phase(Phase::Down(fault));
            }
        }
        self.resumed();
        result
    }

    /// Closes all ports, which ends what is under way. An error where the host did not confirm that it released everything.
    fn close(&self, control: &mut Control<P, T, B>) -> Result<(), Fault> {
        let mut closed = Ok(());
        for state in self.ports.iter().rev() {
            closed = closed.and(Self::close_port(control, state));
        }
        for port in self.ports.iter() {
            // SAFETY: every port was taken out above and none is opened meanwhile, as that takes the control lock, which the
            // caller holds; all were closed with success where `closed` says so.
            unsafe { port.lock().end(&self.state, closed.is_ok()) };
        }
        if closed.is_err() {
            control.page.take().into_iter().for_each(DmaRegion::leak);
        }
        closed
    }

    #[inline(never)]
    fn close_port(
        control: &mut Control<P, T, B>,
        state: &Mutex<PortState<P, T::Port, B>>,
    ) -> Result<(), Fault> {
        // Without the lock of the port, as it takes its time.
        let Some(mut port) = state.lock().port.take() else { return Ok(()) };
        port.register(Waker::noop());
        control.transport.close(port)
    }

    fn open_again(&self, control: &mut Control<P, T, B>) -> Result<(), Fault> {
        for (index, state) in self.ports.iter().enumerate() {
            Self::open_port_again(control, index, self.ports.len(), state)?;
        }
        if control.transport.limits() == self.limits { Ok(()) } else { Err(Fault::Refused) }
    }

    #[inline(never)]
    fn open_port_again(
        control: &mut Control<P, T, B>,
        index: usize,
        ports: usize,
        state: &Mutex<PortState<P, T::Port, B>>,
    ) -> Result<(), Fault> {
        // Without the lock of the port, as it takes its time.
        let mut port = None;
        control.transport.open(index, ports, &mut port)?;
        if port.is_none() {
            return Err(Fault::Refused);
        }
        move_port(&mut state.lock(), &mut port);
        Ok(())
    }

    /// Sends a command of the controller's own and waits for it. Its data are in `answer`, whose length is how many are asked
    /// for; the bytes that the unit has written are returned.
    pub fn command(
        &self,
        control: &mut Control<P, T, B>,
        address: Address,
        cdb: Cdb,
        answer: &mut [u8],
    ) -> Result<usize, CommandError> {
        let len = answer.len().min(MAX_ANSWER);
        let page = control.page.as_ref().ok_or(Fault::Timeout)?;
        let data = match u32::try_from(len) {
            Ok(len) if len > 0 => {
                // Nothing is taken for an answer that was not written.
                page.shared().copy_in(0, &[0; MAX_ANSWER]);
                Some((Segment { addr: page.bus(), len }, Direction::FromDevice))
            }
            _ => None,
        };
        let transferred = self.wait(control, address, cdb, data)?.min(len);
        let page = control.page.as_ref().ok_or(Fault::Timeout)?;
        answer.fill(0);
        if let Some(answer) = answer.get_mut(..transferred) {
            page.shared().copy_out(0, answer);
        }
        Ok(transferred)
    }

    /// Whether the unit supports WRITE SAME (16): requested for a block that does not exist, so that nothing is written. Only a unit that
    /// objects to the block does; a host that fails the command, as those before StorVSP 6.2 do, does not.
    pub fn knows_write_same(
        &self,
        control: &mut Control<P, T, B>,
        address: Address,
        block_size: u32,
    ) -> Result<bool, Fault> {
        let data = Some((self.zeroes(block_size), Direction::ToDevice));
        match self.wait(control, address, Cdb::write_same(OUT_OF_RANGE, 1, false), data) {
            Err(CommandError::Faulted(fault)) => Err(fault),
            Err(CommandError::Io(error)) => Ok(error == IoError::Range),
            Ok(_) | Err(CommandError::Absent) => Ok(false),
        }
    }

    fn wait(
        &self,
        control: &mut Control<P, T, B>,
        address: Address,
        cdb: Cdb,
        memory: Option<(Segment, Direction)>,
    ) -> Result<usize, CommandError> {
        let mut epoch = self.state.epoch();
        let port = self.ports.first().ok_or(Fault::Refused)?;
        if control.is_late {
            return Err(CommandError::Io(IoError::Aborted));
        }
        let mut deadline = self.state.now().saturating_add(self.timeouts.command);
        control.table.set_address(address);
        loop {
            if let Some(fault) = self.fault() {
                return Err(fault.into());
            }
            let sent = {
                let mut port = port.lock();
                let command = PendingCommand { tag: 0, deadline, stage: Stage::Last };
                let data = memory.map_or(Data::None, |(segment, direction)| Data::Own(segment, direction));
                let sent = port.send(&mut control.table, command, data, cdb);
                port.kick();
                sent
            };
            match sent {
                Ok(()) => break,
                Err(Rejected::Full) if self.state.now() < deadline => {}
                Err(Rejected::Faulted(fault)) => return Err(fault.into()),
                Err(_) => return Err(Fault::Refused.into()),
            }
            // Others have to be served for there to be room.
            let received = port.lock().receive_for_others(&self.state, NOBODY);
            if let Err(fault) = received {
                self.recover_with(control, epoch, fault)?;
                epoch = self.state.epoch();
            }
            self.state.platform.relax();
        }
        loop {
            let received = port.lock().receive(&self.state, &mut control.table);
            if let Some(done) = control.table.pop_done() {
                // Its abort may be what a reset has waited for.
                if self.state.phase() == Phase::Resetting && self.outstanding() == 0 {
                    self.state.end_reset();
                    self.resumed();
                }
                if done.is_absent {
                    return Err(CommandError::Absent);
                }
                done.result?;
                return Ok(done.transferred as usize);
            }
            let now = self.state.now();
            if let Err(fault) = received {
                self.recover_with(control, epoch, fault)?;
                epoch = self.state.epoch();
            } else if self.state.phase() == Phase::Resetting {
                let received = self.receive();
                if self.outstanding() == 0 {
                    self.state.end_reset();
                    self.resumed();
                } else if received.is_err() || now >= self.state.reset_until() {
                    self.recover_with(control, epoch, received.err().unwrap_or(Fault::Reset))?;
                    epoch = self.state.epoch();
                }
            } else if now >= deadline {
                control.is_late = true;
                deadline = now.saturating_add(self.timeouts.reset);
                let aborted = match &mut port.lock().port {
                    Some(port) => control.table.abort_late(port, now, deadline),
                    None => false,
                };
                if !aborted {
                    self.begin_reset();
                }
            }
            self.state.platform.relax();
        }
    }
}

impl<P: Platform, T: ScsiTransport, B: DmaBuffer> Drop for ControllerShared<P, T, B> {
    fn drop(&mut self) {
        let is_released = {
            let control = &mut *self.control.lock();
            let is_closed = self.close(control).is_ok();
            if is_closed {
                // A command of the controller's own may have ended with a fault: nobody waits for it any more.
                // SAFETY: every port was closed with success, and nothing was sent since.
                unsafe { control.table.end(true) };
            }
            is_closed && control.page.is_some()
        };
        if is_released {
            // SAFETY: it is dropped once, here, and not used after; every port was closed with success, so that the controller
            // no longer reads it.
            unsafe { ManuallyDrop::drop(&mut self.zeroes) };
        }
    }
}
