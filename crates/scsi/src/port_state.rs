//! A port in service, behind a lock: what the owners of commands share on it.
//!
//! Each owner (a queue of a disk, or the controller itself) keeps its commands in a [`CommandTable`] of its own, which needs no
//! lock. The port knows only which owners there are: a reply names its owner, and the receiver files it in that owner's
//! inbox and wakes the owner. So the lock is taken once for a batch of commands and once for a batch of replies, not for each.
//!
//! Closing a port and opening it again begins a new *generation*. A table belongs to the generation in which its commands were
//! sent; [`PortState::sync`] ends the commands of an older one, under the same lock under which commands are sent. So no command
//! that was sent by a new port is taken for one of a port that was closed.

use crate::command::{BuildCdb, Data, PendingCommand, RESET_ID, owner_of};
use crate::command_table::{Accepted, CommandTable};
use crate::inbox::{Inbox, Reply};
use crate::owner::{CONTROLLER, Owners, bit};
use crate::state::ControllerState;
use crate::transport::{Event, ScsiPort, Status};
use crate::unit::MAX_UNITS;
use paravirt_device::{Arm, Fault, Rejected};
use paravirt_platform::{AllocError, Direction, DmaBuffer, PageTable, Platform, WakerGroup};
use spin::Mutex;

/// An owner, as the port knows it.
struct Owner<P: Platform, B> {
    inbox: Option<Inbox<P>>,
    /// The table of a queue that was dropped with commands in flight, until the last of them has completed.
    orphan: Option<CommandTable<P, B>>,
}

pub(crate) struct PortState<P: Platform, Q, B> {
    /// `None` while it is closed.
    pub port: Option<Q>,
    /// What ended the port, which is to be closed.
    failed: Option<Fault>,
    /// Counts how often a port was closed.
    generation: u64,
    /// The first generation whose port was closed without the host's confirmation.
    first_unreleased: Option<u64>,
    /// Commands that the host has.
    outstanding: u32,
    owners: PageTable<P, Owner<P, B>>,
    orphans: u16,
    /// Those who are to be woken when they have something to do.
    armed: Owners,
    /// Those whose inbox is not empty.
    ready: Owners,
    /// Those who found the port full, and those of them for whom there may be room now.
    waiting: Owners,
    roomy: Owners,
    pub wakers: WakerGroup<P>,
}

impl<P: Platform, Q: ScsiPort, B: DmaBuffer> PortState<P, Q, B> {
    /// The state of a port that is not open, with the controller as its owner, and room for the units.
    ///
    /// It is behind its lock already, and made in one piece: each copy is much for a small stack.
    #[inline(never)]
    pub fn new(platform: &P) -> Result<Mutex<Self>, AllocError> {
        let mut inbox = Some(Inbox::new(platform, 1)?);
        let owners = PageTable::new(platform, MAX_UNITS.saturating_add(1), |at| {
            let inbox = if at == usize::from(CONTROLLER) { inbox.take() } else { None };
            Owner { inbox, orphan: None }
        })?;
        let wakers = WakerGroup::new(platform, owners.len())?;
        Ok(Mutex::new(Self {
            port: None,
            failed: None,
            generation: 0,
            first_unreleased: None,
            outstanding: 0,
            owners,
            orphans: 0,
            armed: 0,
            ready: 0,
            waiting: 0,
            roomy: 0,
            wakers,
        }))
    }

    /// Adds an owner, whose commands have their replies filed in `inbox`; whether it was free.
    pub fn add_owner(&mut self, owner: u16, inbox: Inbox<P>) -> bool {
        let free = self.owners.get_mut(usize::from(owner));
        match free.filter(|owner| owner.inbox.is_none() && owner.orphan.is_none()) {
            Some(free) => {
                free.inbox = Some(inbox);
                true
            }
            None => false,
        }
    }

    /// Removes an owner. Where the host has commands of it, the table is kept until they complete, else it is dropped;
    /// whether it is kept.
    pub fn remove_owner(&mut self, state: &ControllerState<P>, mut table: CommandTable<P, B>) -> bool {
        let owner = table.owner();
        self.collect(state, &mut table);
        table.abandon();
        self.waiting &= !bit(owner);
        self.roomy &= !bit(owner);
        self.disarm(owner);
        let Some(entry) = self.owners.get_mut(usize::from(owner)) else { return false };
        if !table.has_sent() {
            entry.inbox = None;
            return false;
        }
        entry.orphan = Some(table);
        self.orphans = self.orphans.saturating_add(1);
        true
    }

    /// Whether queues were dropped whose commands the host still has.
    pub fn has_orphans(&self) -> bool {
        self.orphans > 0
    }

    /// Commands that the host has.
    pub fn outstanding(&self) -> u32 {
        self.outstanding
    }

    /// Sends a command without a buffer now.
    pub fn send(
        &mut self,
        table: &mut CommandTable<P, B>,
        command: PendingCommand,
        data: Data<B>,
        build: impl BuildCdb,
    ) -> Result<(), Rejected> {
        self.sync(table);
        let port = self.port.as_mut().ok_or(Fault::Reset)?;
        let sent = table.send(port, command, data, build);
        self.has_sent(table.owner(), sent.err());
        sent
    }

    /// Sends a command with a buffer now. A refused buffer is returned, not in flight.
    pub fn send_buffer(
        &mut self,
        table: &mut CommandTable<P, B>,
        command: PendingCommand,
        buffer: (B, Direction),
        build: impl BuildCdb,
    ) -> Result<(), (Rejected, B)> {
        self.sync(table);
        let Some(port) = &mut self.port else { return Err((Fault::Reset.into(), buffer.0)) };
        let sent = table.send_buffer(port, command, buffer, build);
        self.has_sent(table.owner(), sent.as_ref().err().map(|(reason, _)| *reason));
        sent
    }

    /// Counts a command, or waits for room where the port was full.
    fn has_sent(&mut self, owner: u16, refused: Option<Rejected>) {
        match refused {
            None => self.outstanding = self.outstanding.wrapping_add(1),
            Some(Rejected::Full) => {
                // What is in the ring has to get out of it.
                self.kick();
                self.waiting |= bit(owner);
            }
            Some(_) => {}
        }
    }

    /// Sends what is staged in `table`; whether all of it was sent. The host is not notified yet. Where the port was full the
    /// owner is woken when there may be room.
    #[inline(always)]
    pub fn flush(&mut self, table: &mut CommandTable<P, B>) -> bool {
        self.sync(table);
        let Some(port) = &mut self.port else { return !table.has_staged() };
        let (sent, is_full) = table.flush(port);
        self.outstanding = self.outstanding.wrapping_add(sent);
        if is_full {
            self.waiting |= bit(table.owner());
        }
        !is_full
    }

    /// Notifies the host of what was sent.
    #[inline(always)]
    pub fn kick(&mut self) {
        self.port.iter_mut().for_each(ScsiPort::kick);
    }

    /// Ends what is in `table` of a generation that is over.
    #[inline(always)]
    pub fn sync(&self, table: &mut CommandTable<P, B>) {
        if table.generation != self.generation {
            self.end_table(table);
        }
    }

    #[cold]
    fn end_table(&self, table: &mut CommandTable<P, B>) {
        let released = self.first_unreleased.is_none_or(|first| table.generation < first);
        // SAFETY: what is in the table was sent in its generation, as each send calls `sync` first under this lock, and the port
        // of that generation has been closed, as `end` counts generations only then; with success where `released`.
        unsafe { table.end(released) };
        table.generation = self.generation;
    }

    /// Receives the replies to commands that succeeded, up to the first other event, where there is nothing else to do for
    /// `table`. The first command of the table that completed is not filed as done: its slot is returned.
    ///
    /// A fault is recorded, and found by [`receive`](Self::receive).
    #[inline(always)]
    pub fn receive_good(
        &mut self,
        state: &ControllerState<P>,
        table: &mut CommandTable<P, B>,
    ) -> Option<u16> {
        let is_plain = self.failed.is_none()
            && self.ready == 0
            && table.generation == self.generation
            && !table.has_deferred();
        if !is_plain {
            return None;
        }
        let (owner, mut first, mut came) = (table.owner(), None, false);
        while let Some(port) = &mut self.port {
            let Some((id, transferred)) = port.receive_good() else { break };
            self.outstanding = self.outstanding.saturating_sub(1);
            came = true;
            let accepted = match owner_of(id) == owner {
                true => table.accept_good(id, transferred),
                false => Accepted::No,
            };
            match accepted {
                Accepted::Done(at) if first.is_none() => first = Some(at),
                Accepted::Done(at) => table.finish(at, Ok(())),
                Accepted::No => self.accept_other(state, table, id, transferred),
            }
            // All that the host had is there: another look would find nothing but a notification, which an interrupt announces.
            if self.outstanding == 0 {
                break;
            }
        }
        if came {
            self.port.iter_mut().for_each(ScsiPort::pause);
            self.has_received(owner);
        }
        first
    }

    /// Accepts a successful reply to a command that does not end with it, or of another owner.
    #[cold]
    fn accept_other(
        &mut self,
        state: &ControllerState<P>,
        table: &mut CommandTable<P, B>,
        id: u64,
        transferred: u32,
    ) {
        match owner_of(id) == table.owner() {
            true => table.accept(state, id, Status::Good, transferred),
            false => self.route(state, Reply { id, status: Status::Good, transferred }),
        }
    }

    /// Receives everything that there is, for `table` and for the others, and retries what is due.
    ///
    /// # Errors
    ///
    /// The fault of the port, which is to be closed.
    pub fn receive(
        &mut self,
        state: &ControllerState<P>,
        table: &mut CommandTable<P, B>,
    ) -> Result<(), Fault> {
        self.receive_checked(state, table.owner(), Some(table))
    }

    /// Receives everything that there is, for the others alone.
    ///
    /// # Errors
    ///
    /// The fault of the port, which is to be closed.
    pub fn receive_for_others(&mut self, state: &ControllerState<P>, owner: u16) -> Result<(), Fault> {
        self.receive_checked(state, owner, None)
    }

    #[inline(never)]
    fn receive_checked(
        &mut self,
        state: &ControllerState<P>,
        owner: u16,
        table: Option<&mut CommandTable<P, B>>,
    ) -> Result<(), Fault> {
        if let Some(fault) = self.failed {
            return Err(fault);
        }
        self.receive_all(state, owner, table).or_else(|fault| self.fail(fault))
    }

    /// Records what ended the port, so that nobody uses it until it has been closed.
    #[cold]
    fn fail(&mut self, fault: Fault) -> Result<(), Fault> {
        self.failed = Some(fault).filter(|_| self.port.is_some());
        Err(fault)
    }

    fn receive_all(
        &mut self,
        state: &ControllerState<P>,
        owner: u16,
        mut table: Option<&mut CommandTable<P, B>>,
    ) -> Result<(), Fault> {
        if let Some(table) = &mut table {
            self.sync(table);
            self.drain_inbox(state, table);
        }
        let (mut came, mut has_changed) = (false, false);
        while let Some(event) = self.port.as_mut().ok_or(Fault::Reset)?.receive()? {
            came = true;
            match event {
                Event::Reply { id: RESET_ID, .. } => {}
                Event::Reply { id, status, transferred } => {
                    self.outstanding = self.outstanding.saturating_sub(1);
                    match &mut table {
                        Some(table) if owner_of(id) == owner => {
                            table.accept(state, id, status, transferred);
                        }
                        _ => self.route(state, Reply { id, status, transferred }),
                    }
                }
                // A host may report changes as fast as they are received: one is enough for a scan.
                Event::Rescan => {
                    state.request_scan();
                    if core::mem::replace(&mut has_changed, true) {
                        break;
                    }
                }
            }
            if self.outstanding == 0 {
                self.port.iter_mut().for_each(ScsiPort::pause);
                break;
            }
        }
        if came {
            self.has_received(owner);
        }
        if let Some(table) = table {
            if table.has_deferred() {
                if let Some(port) = &mut self.port {
                    let sent = table.retry_due(port, state.now());
                    self.outstanding = self.outstanding.wrapping_add(sent);
                }
            }
        }
        Ok(())
    }

    /// Accepts what others have received for the owner of `table`, without a look at the port.
    pub fn collect(&mut self, state: &ControllerState<P>, table: &mut CommandTable<P, B>) {
        self.sync(table);
        self.drain_inbox(state, table);
    }

    fn drain_inbox(&mut self, state: &ControllerState<P>, table: &mut CommandTable<P, B>) {
        let owner = table.owner();
        if self.ready & bit(owner) == 0 {
            return;
        }
        self.ready &= !bit(owner);
        let Some(entry) = self.owners.get_mut(usize::from(owner)) else { return };
        while let Some(Reply { id, status, transferred }) = entry.inbox.as_mut().and_then(Inbox::pop) {
            table.accept(state, id, status, transferred);
        }
    }

    /// Files a reply that is for another owner.
    #[cold]
    fn route(&mut self, state: &ControllerState<P>, reply: Reply) {
        let owner = owner_of(reply.id);
        let entry = self.owners.get_mut(usize::from(owner));
        if let Some(Owner { inbox, orphan: slot @ Some(_) }) = entry {
            if let Some(orphan) = slot {
                orphan.accept(state, reply.id, reply.status, reply.transferred);
                orphan.abandon();
                if !orphan.has_sent() {
                    (*slot, *inbox) = (None, None);
                    self.orphans = self.orphans.saturating_sub(1);
                    state.release_owner(owner);
                }
            }
            return;
        }
        let filed = match self.owners.get_mut(usize::from(owner)) {
            Some(Owner { inbox: Some(inbox), .. }) => inbox.push(reply),
            _ => None,
        };
        match filed {
            Some(_) => self.ready |= bit(owner),
            None => state.count_stray(reply.id),
        }
    }

    /// After `owner` has received something: it is awake, and the others are woken who have something to do.
    #[inline(always)]
    fn has_received(&mut self, owner: u16) {
        if (self.armed | self.waiting) != 0 {
            self.wake_others(owner);
        }
    }

    #[inline(never)]
    fn wake_others(&mut self, owner: u16) {
        self.armed &= !bit(owner);
        if self.waiting != 0 {
            self.make_room();
        }
        if self.armed != 0 {
            self.wake();
        }
    }

    /// Wakes those who have replies, and keeps the interrupt on for the rest.
    #[cold]
    fn wake(&mut self) {
        self.wake_those(self.ready);
        if self.armed != 0 {
            if let Some(port) = &mut self.port {
                if port.arm() == Arm::Pending {
                    // Something came in just now: those who sleep are to look.
                    self.armed = 0;
                    self.wakers.wake_all();
                }
            }
        }
    }

    /// Wakes those of `owners` who are armed.
    fn wake_those(&mut self, owners: Owners) {
        let mut due = self.armed & owners;
        self.armed &= !due;
        while due != 0 {
            self.wakers.wake(due.trailing_zeros() as usize);
            due &= due.wrapping_sub(1);
        }
    }

    /// There may be room again: those who wait for it look, now or when they would sleep.
    #[cold]
    fn make_room(&mut self) {
        self.roomy |= core::mem::take(&mut self.waiting);
        self.wake_those(self.roomy);
    }

    /// Whether the next event wakes `owner`.
    pub fn arm(&mut self, owner: u16) -> Arm {
        if (self.ready | self.roomy) & bit(owner) != 0 {
            self.roomy &= !bit(owner);
            return Arm::Pending;
        }
        let arm = self.port.as_mut().map_or(Arm::Armed, ScsiPort::arm);
        if arm != Arm::Pending {
            self.armed |= bit(owner);
        }
        arm
    }

    /// Asks for no interrupts, unless others want them.
    pub fn disarm(&mut self, owner: u16) {
        self.armed &= !bit(owner);
        if self.armed == 0 {
            if let Some(port) = &mut self.port {
                port.disarm();
            }
        }
    }

    /// Ends the generation after its port was taken out and closed. Each owner finds that out at its next [`sync`](Self::sync).
    ///
    /// # Safety
    ///
    /// No port is open. Where `released`, the transport has closed that of this generation with success, or it was none.
    pub unsafe fn end(&mut self, state: &ControllerState<P>, released: bool) {
        debug_assert!(self.port.is_none(), "a port that is open has not ended");
        if !released {
            self.first_unreleased.get_or_insert(self.generation);
        }
        self.generation = self.generation.wrapping_add(1);
        self.failed = None;
        (self.outstanding, self.ready) = (0, 0);
        for owner in 0..self.owners.len() as u16 {
            let Some(entry) = self.owners.get_mut(usize::from(owner)) else { break };
            entry.inbox.iter_mut().for_each(Inbox::clear);
            if let Some(mut orphan) = entry.orphan.take() {
                entry.inbox = None;
                self.end_table(&mut orphan);
                self.orphans = self.orphans.saturating_sub(1);
                state.release_owner(owner);
            }
        }
        self.armed = 0;
        self.wakers.wake_all();
    }
}
