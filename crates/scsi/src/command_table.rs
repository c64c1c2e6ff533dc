//! The commands of one owner: a table that only the owner accesses, without a lock.

use crate::Cdb;
use crate::command::{
    BuildCdb, Completed, Data, LIST_STRIDE, PendingCommand, Retry, Stage, command_id, next_id, slot_of,
    transmit, with_buffer, with_memory,
};
use crate::outcome::{Outcome, RETRY_DELAY, outcome};
use crate::slot::{List, NONE, Place, Slot};
use crate::state::ControllerState;
use crate::transport::{Address, Command, ScsiPort, Status};
use paravirt_device::{IoError, Rejected};
use paravirt_platform::{
    AllocError, Direction, DmaBuffer, DmaRegion, DmaSegments, Instant, PageTable, Platform, Segment,
};

/// What a slot is filled with that goes by [`CommandTable::stage`].
pub(crate) struct Staged<B> {
    pub tag: u64,
    pub deadline: Instant,
    pub stage: Stage,
    pub buffer: B,
    pub direction: Direction,
    /// The only segment of the buffer, which is in flight.
    pub segment: Segment,
    pub cdb: Cdb,
}

/// Whether a reply completed a command.
pub(crate) enum Accepted {
    /// That in this slot.
    Done(u16),
    /// It is for [`CommandTable::accept`] to say what the reply means.
    No,
}

pub(crate) struct CommandTable<P: Platform, B> {
    slots: PageTable<P, Slot<B>>,
    free: u16,
    staged: List,
    done: List,
    in_flight: u16,
    deferred: u16,
    retry_at: Instant,
    owner: u16,
    address: Address,
    /// The port generation that the commands were sent in: it is the port that compares it under its lock.
    pub generation: u64,
    /// UNMAP parameter lists. `None` once they were leaked.
    lists: Option<DmaRegion<P>>,
}

impl<P: Platform, B> CommandTable<P, B> {
    /// A table of `depth` commands of `owner` to the unit at `address`.
    pub fn new(platform: &P, owner: u16, address: Address, depth: u16) -> Result<Self, AllocError> {
        let depth = depth.clamp(1, NONE.wrapping_sub(1));
        let slots = PageTable::new(platform, usize::from(depth), |at| {
            let next = (at as u16).wrapping_add(1);
            Slot {
                data: Data::None,
                tag: 0,
                deadline: Instant::NEVER,
                id: command_id(1, owner, at as u16),
                len: 0,
                next: if next == depth { NONE } else { next },
                place: Place::Free,
                stage: Stage::Last,
                result: Ok(()),
                retries: 0,
                attentions: 0,
                is_absent: false,
                transferred: 0,
                segment: Segment { addr: paravirt_platform::BusAddr(0), len: 0 },
                cdb: Cdb::test_unit_ready(),
            }
        })?;
        let lists = DmaRegion::alloc(platform, usize::from(depth).saturating_mul(LIST_STRIDE))?;
        Ok(Self {
            slots,
            free: 0,
            staged: List::EMPTY,
            done: List::EMPTY,
            in_flight: 0,
            deferred: 0,
            retry_at: Instant::NEVER,
            owner,
            address,
            generation: 0,
            lists: Some(lists),
        })
    }

    #[inline(always)]
    pub fn owner(&self) -> u16 {
        self.owner
    }

    pub fn set_address(&mut self, address: Address) {
        self.address = address;
    }

    /// Commands that were accepted and whose completion was not taken.
    #[inline(always)]
    pub fn in_flight(&self) -> u16 {
        self.in_flight
    }

    #[inline(always)]
    pub fn has_room(&self) -> bool {
        self.free != NONE
    }

    #[inline(always)]
    pub fn has_staged(&self) -> bool {
        self.staged.head != NONE
    }

    #[inline(always)]
    pub fn has_done(&self) -> bool {
        self.done.head != NONE
    }

    #[inline(always)]
    pub fn has_deferred(&self) -> bool {
        self.deferred > 0
    }

    /// Whether the host has a command.
    pub fn has_sent(&self) -> bool {
        self.slots.iter().any(|slot| slot.place.is_with_host())
    }

    /// When a command has to be retried.
    pub fn retry_at(&self) -> Instant {
        if self.deferred == 0 { Instant::NEVER } else { self.retry_at }
    }

    /// The earliest deadline.
    pub fn deadline(&self) -> Instant {
        let live = |slot: &&Slot<B>| !matches!(slot.place, Place::Free | Place::Done);
        self.slots.iter().filter(live).map(|slot| slot.deadline).min().unwrap_or(Instant::NEVER)
    }

    /// Stages a command, whose buffer is in flight, in the slot that [`has_room`](Self::has_room) promised; gives the buffer back
    /// where there is none.
    #[inline(always)]
    pub fn stage(&mut self, command: Staged<B>) -> Result<(), B> {
        let Staged { tag, deadline, stage, buffer, direction, segment, cdb } = command;
        let at = self.free;
        let Some(slot) = self.slots.get_mut(usize::from(at)) else { return Err(buffer) };
        self.free = slot.next;
        // Without a drop of what was there: nothing is in a slot that is free.
        debug_assert!(matches!(slot.data, Data::None), "a free slot has no data");
        core::mem::forget(core::mem::replace(&mut slot.data, Data::Buffer(buffer, direction)));
        slot.tag = tag;
        slot.deadline = deadline;
        slot.len = segment.len;
        slot.place = Place::Staged;
        slot.stage = stage;
        slot.retries = 0;
        slot.attentions = 0;
        slot.segment = segment;
        slot.cdb = cdb;
        self.in_flight = self.in_flight.wrapping_add(1);
        self.staged.push(&mut self.slots, at);
        Ok(())
    }

    /// Completes a command at once that has nothing to send.
    pub fn complete_at_once(&mut self, tag: u64) -> Result<(), Rejected> {
        let at = self.free;
        let slot = self.slots.get_mut(usize::from(at)).ok_or(Rejected::Full)?;
        self.free = slot.next;
        (slot.tag, slot.data) = (tag, Data::None);
        self.in_flight = self.in_flight.wrapping_add(1);
        self.finish(at, Ok(()));
        Ok(())
    }

    /// Takes the oldest completed command.
    #[inline(always)]
    pub fn pop_done(&mut self) -> Option<Completed<B>> {
        let at = self.done.head;
        let slot = self.slots.get_mut(usize::from(at))?;
        self.done.pop(slot.next);
        let (result, transferred, is_absent) = (slot.result, slot.transferred, slot.is_absent);
        let (tag, data) = self.release(at)?;
        Some(Completed { tag, data, result, transferred, is_absent })
    }

    /// Frees the slot of a command that has completed and is in no list; its tag and data.
    #[inline(always)]
    pub fn release(&mut self, at: u16) -> Option<(u64, Data<B>)> {
        let slot = self.slots.get_mut(usize::from(at))?;
        debug_assert_eq!(slot.place, Place::Done, "the command has completed");
        let data = core::mem::replace(&mut slot.data, Data::None);
        slot.place = Place::Free;
        slot.id = next_id(slot.id);
        slot.next = self.free;
        self.free = at;
        self.in_flight = self.in_flight.wrapping_sub(1);
        Some((slot.tag, data))
    }

    /// Files a command as done.
    #[inline(always)]
    pub fn finish(&mut self, at: u16, result: Result<(), IoError>) {
        if let Some(slot) = self.slots.get_mut(usize::from(at)) {
            slot.place = Place::Done;
            slot.result = result;
            self.done.push(&mut self.slots, at);
        }
    }

    /// Retries the command in slot `at` when it is `when`.
    fn schedule_retry(&mut self, when: Instant, at: u16) {
        if let Some(slot) = self.slots.get_mut(usize::from(at)) {
            slot.place = Place::Deferred;
            slot.id = next_id(slot.id);
            self.retry_at = if self.deferred == 0 { when } else { self.retry_at.min(when) };
            self.deferred = self.deferred.saturating_add(1);
        }
    }
}

impl<P: Platform, B: DmaBuffer> CommandTable<P, B> {
    /// Sends a command without a buffer now.
    pub fn send<Q: ScsiPort>(
        &mut self,
        port: &mut Q,
        command: PendingCommand,
        mut data: Data<B>,
        build: impl BuildCdb,
    ) -> Result<(), Rejected> {
        debug_assert!(!matches!(data, Data::Buffer(..)), "a refusal returns the buffer");
        let (at, lists) = (self.free, self.lists.take());
        let sent = with_memory(&mut data, lists.as_ref(), at, |memory| self.send_memory(port, memory, build));
        self.lists = lists;
        sent?;
        self.fill(at, command, data);
        Ok(())
    }

    /// Sends a command with a buffer now. A refused buffer is returned, not in flight.
    pub fn send_buffer<Q: ScsiPort>(
        &mut self,
        port: &mut Q,
        command: PendingCommand,
        (mut buffer, direction): (B, Direction),
        build: impl BuildCdb,
    ) -> Result<(), (Rejected, B)> {
        let at = self.free;
        match with_buffer(&mut buffer, direction, |memory| self.send_memory(port, memory, build)) {
            Ok(()) => {
                self.fill(at, command, Data::Buffer(buffer, direction));
                Ok(())
            }
            Err(reason) => Err((reason, buffer)),
        }
    }

    /// Sends a command from the next free slot, which [`fill`](Self::fill) takes afterwards.
    fn send_memory<Q: ScsiPort>(
        &mut self,
        port: &mut Q,
        memory: DmaSegments<'_>,
        build: impl BuildCdb,
    ) -> Result<(), Rejected> {
        let slot = self.slots.get_mut(usize::from(self.free)).ok_or(Rejected::Full)?;
        transmit(port, slot.id, self.address, memory, (&mut slot.cdb, &mut slot.len), build)
    }

    /// Takes the slot `at`, the next free one, for a command that was sent from it.
    fn fill(&mut self, at: u16, command: PendingCommand, data: Data<B>) {
        debug_assert_eq!(at, self.free, "the slot that the command was sent from");
        let Some(slot) = self.slots.get_mut(usize::from(at)) else { return };
        let PendingCommand { tag, deadline, stage } = command;
        self.free = slot.next;
        (slot.data, slot.tag, slot.deadline, slot.stage) = (data, tag, deadline, stage);
        (slot.retries, slot.attentions, slot.is_absent) = (0, 0, false);
        slot.place = Place::Sent;
        self.in_flight = self.in_flight.wrapping_add(1);
    }

    /// Sends what is staged, the oldest first: how many commands were sent, and whether the port was full. The host is not
    /// notified yet.
    #[inline(always)]
    pub fn flush<Q: ScsiPort>(&mut self, port: &mut Q) -> (u32, bool) {
        let mut sent = 0u32;
        loop {
            let at = self.staged.head;
            let Some(slot) = self.slots.get_mut(usize::from(at)) else { return (sent, false) };
            let Data::Buffer(_, direction) = &slot.data else {
                debug_assert!(false, "a staged command has a buffer");
                return (sent, false);
            };
            // SAFETY: the segment is that of the buffer in the slot, which was submitted in this direction before it was staged
            // and is reclaimed only after the reply, or where the command cannot be sent.
            let memory = unsafe { DmaSegments::new(core::slice::from_ref(&slot.segment), *direction) };
            let command = Command { address: self.address, cdb: &slot.cdb, memory, len: slot.segment.len };
            match port.send(slot.id, &command) {
                Ok(()) => {
                    slot.place = Place::Sent;
                    self.staged.pop(slot.next);
                    sent = sent.wrapping_add(1);
                }
                Err(Rejected::Full) => return (sent, true),
                Err(_) => self.drop_staged(at),
            }
        }
    }

    /// Finishes the oldest staged command, which the port refuses for good.
    #[cold]
    fn drop_staged(&mut self, at: u16) {
        if let Some(slot) = self.slots.get_mut(usize::from(at)) {
            self.staged.pop(slot.next);
            if let Data::Buffer(buffer, _) = &mut slot.data {
                // SAFETY: it was submitted when it was staged, and the command was not sent.
                unsafe { buffer.reclaim() };
            }
            self.finish(at, Err(IoError::Device));
        }
    }

    /// Accepts the reply to a command that succeeded, where that completes it: its slot is then to be finished or released.
    #[inline(always)]
    pub fn accept_good(&mut self, id: u64, transferred: u32) -> Accepted {
        let at = slot_of(id);
        if let Some(slot) = self.slots.get_mut(usize::from(at)) {
            if slot.id == id
                && slot.place == Place::Sent
                && slot.stage == Stage::Last
                && slot.len == transferred
            {
                if let Data::Buffer(buffer, _) = &mut slot.data {
                    // SAFETY: it was submitted when the command was sent, which `Place::Sent` says, and the reply names its slot and
                    // generation: the contract of `ScsiPort` is that the controller no longer accesses its memory.
                    unsafe { buffer.reclaim() };
                }
                slot.place = Place::Done;
                return Accepted::Done(at);
            }
        }
        Accepted::No
    }

    /// Accepts a reply; one that names no command of the host's is counted.
    #[cold]
    pub fn accept(&mut self, state: &ControllerState<P>, id: u64, status: Status, transferred: u32) {
        let at = slot_of(id);
        let slot =
            self.slots.get_mut(usize::from(at)).filter(|slot| slot.place.is_with_host() && slot.id == id);
        let Some(slot) = slot else { return state.count_stray(id) };
        if let Data::Buffer(buffer, _) = &mut slot.data {
            // SAFETY: it was submitted when the command was sent, which its place says, and the reply names its slot and
            // generation: the contract of `ScsiPort` is that the controller no longer accesses its memory.
            unsafe { buffer.reclaim() };
        }
        slot.transferred = transferred;
        slot.is_absent = false;
        let is_late = slot.place == Place::Aborting;
        match outcome(slot, state, self.owner, self.address, status) {
            Outcome::Finish(result) => self.finish(at, result),
            // Its deadline has passed.
            Outcome::RetryAt(_) if is_late => self.finish(at, Err(IoError::Aborted)),
            Outcome::RetryAt(when) => self.schedule_retry(when, at),
        }
    }

    /// Ends each command whose deadline has passed at `now`: one that the host does not have completes as aborted, and the controller is asked
    /// to abort the others, which have until `until` to complete then. Returns false where one cannot be aborted alone, or should have been
    /// by now.
    #[cold]
    pub fn abort_late<Q: ScsiPort>(&mut self, port: &mut Q, now: Instant, until: Instant) -> bool {
        self.end_unsent(now);
        let late = |slot: &&mut Slot<B>| slot.deadline <= now && slot.place.is_with_host();
        let address = self.address;
        self.slots.iter_mut().filter(late).all(|slot| {
            let is_asked = slot.place == Place::Sent && port.abort(slot.id, address).is_ok();
            if is_asked {
                (slot.place, slot.deadline) = (Place::Aborting, until);
            }
            is_asked
        })
    }

    /// Ends the commands whose deadline has passed and that the host does not have.
    fn end_unsent(&mut self, now: Instant) {
        let mut staged = core::mem::replace(&mut self.staged, List::EMPTY);
        while let Some(slot) = self.slots.get_mut(usize::from(staged.head)) {
            let at = staged.head;
            staged.pop(slot.next);
            match (slot.deadline <= now, &mut slot.data) {
                (false, _) => self.staged.push(&mut self.slots, at),
                (true, data) => {
                    if let Data::Buffer(buffer, _) = data {
                        // SAFETY: it was submitted when it was staged, and the command was not sent.
                        unsafe { buffer.reclaim() };
                    }
                    self.finish(at, Err(IoError::Aborted));
                }
            }
        }
        for at in 0..self.slots.len() as u16 {
            let slot = self.slots.get(usize::from(at));
            if slot.is_some_and(|slot| slot.place == Place::Deferred && slot.deadline <= now) {
                self.deferred = self.deferred.wrapping_sub(1);
                self.finish(at, Err(IoError::Aborted));
            }
        }
    }

    /// Sends again what is due at `now`; how many commands were sent.
    #[cold]
    pub fn retry_due<Q: ScsiPort>(&mut self, port: &mut Q, now: Instant) -> u32 {
        let mut sent = 0u32;
        if now < self.retry_at() {
            return sent;
        }
        self.retry_at = Instant::NEVER;
        for at in 0..self.slots.len() as u16 {
            let Self { slots, lists, address, .. } = self;
            let Some(slot) = slots.get_mut(usize::from(at)).filter(|slot| slot.place == Place::Deferred)
            else {
                continue;
            };
            let Slot { id, data, cdb, len, .. } = slot;
            let retry = Retry(*len);
            let result = with_memory(data, lists.as_ref(), at, |memory| {
                transmit(port, *id, *address, memory, (cdb, len), retry)
            });
            match result {
                Ok(()) => {
                    slot.place = Place::Sent;
                    sent = sent.wrapping_add(1);
                    self.deferred = self.deferred.wrapping_sub(1);
                }
                Err(Rejected::Full) => {
                    self.retry_at = now.saturating_add(RETRY_DELAY);
                    break;
                }
                Err(_) => {
                    self.deferred = self.deferred.wrapping_sub(1);
                    self.finish(at, Err(IoError::Device));
                }
            }
        }
        port.kick();
        sent
    }

    /// Ends every command after the port that it was sent by has been closed: it completes as aborted. What was sent is leaked
    /// unless the host `released` it.
    ///
    /// # Safety
    ///
    /// Where `released`, the transport has closed the port with success since the last command was sent.
    pub unsafe fn end(&mut self, released: bool) {
        self.staged = List::EMPTY;
        self.deferred = 0;
        for at in 0..self.slots.len() as u16 {
            let Some(slot) = self.slots.get_mut(usize::from(at)) else { return };
            let was_sent = slot.place.is_with_host();
            match (slot.place, &mut slot.data) {
                (Place::Free | Place::Done, _) => continue,
                // A buffer that is dropped in flight leaks its memory: the completion comes without it.
                (Place::Sent | Place::Aborting, Data::Buffer(..)) if !released => slot.data = Data::None,
                (Place::Sent | Place::Aborting | Place::Staged, Data::Buffer(buffer, _)) => {
                    // SAFETY: it was submitted when it was staged or sent. A staged command the host does not know of; for one
                    // that was sent the caller promises that the port was closed, after which the contract of
                    // `ScsiTransport::close` is that the controller accesses its memory no more.
                    unsafe { buffer.reclaim() };
                }
                _ => {}
            }
            debug_assert!(released || !was_sent || !matches!(slot.data, Data::Buffer(..)));
            self.finish(at, Err(IoError::Aborted));
        }
        if !released {
            self.lists.take().into_iter().for_each(DmaRegion::leak);
        }
    }

    /// Gives up the commands of a queue that is dropped: what the host does not have is dropped now.
    pub fn abandon(&mut self) {
        while self.has_staged() {
            self.drop_staged(self.staged.head);
        }
        for at in 0..self.slots.len() as u16 {
            if self.slots.get(usize::from(at)).is_some_and(|slot| slot.place == Place::Deferred) {
                self.finish(at, Err(IoError::Aborted));
            }
        }
        self.deferred = 0;
        while self.pop_done().is_some() {}
    }
}

impl<P: Platform, B> Drop for CommandTable<P, B> {
    /// Leaks the parameter lists where the host may still read one; buffers in flight leak themselves.
    fn drop(&mut self) {
        if self.has_sent() {
            self.lists.take().into_iter().for_each(DmaRegion::leak);
        }
    }
}
