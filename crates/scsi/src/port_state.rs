//! A port in service, and what is in flight on it. All units of a controller share its ports: whoever looks for a reply of
//! their own takes all replies that there are, and wakes those to whom they belong.

use crate::core::CONTROLLER;
use crate::port::{Event, Port, Status};
use crate::shared::{Shared, Stage};
use crate::slot::{Again, Data, Finished, LIST_STRIDE, Make, Place, Slot, Wanted, pack, transmit};
use crate::{Attention, Cdb, Meaning};
use core::time::Duration;
use paravirt_device::{Arm, Fault, IoError, Rejected};
use paravirt_platform::{AllocError, DmaBuffer, DmaRegion, Instant, PageTable, Platform, WakerGroup};

/// Nobody's: the end of a list.
const NONE: u16 = u16::MAX;
/// Of a queue that is gone.
const ORPHAN: u16 = u16::MAX;
/// Who takes in what came for all, and waits for nothing: no owner.
pub(crate) const NOBODY: u16 = MOST_OWNERS as u16 - 1;
/// What the reply to a reset carries.
pub(crate) const RESET_ID: u64 = u64::MAX;
/// How often a command is sent again after a unit attention.
const MOST_ATTENTIONS: u8 = 5;
/// How often a command is sent again after BUSY, and how long after.
const MOST_RETRIES: u8 = 100;
const RETRY_AFTER: Duration = Duration::from_millis(20);

#[derive(Copy, Clone)]
struct Owner {
    head: u16,
    tail: u16,
    in_flight: u16,
}

const IDLE: Owner = Owner { head: NONE, tail: NONE, in_flight: 0 };

/// A set of owners.
type Owners = u128;
/// How many there can be.
pub(crate) const MOST_OWNERS: usize = Owners::BITS as usize;

const fn bit(owner: u16) -> Owners {
    1u128.wrapping_shl(owner as u32)
}

pub(crate) struct Lane<P: Platform, Q, B> {
    pub port: Option<Q>,
    /// What ended the port, which is to be closed.
    failed: Option<Fault>,
    slots: PageTable<P, Slot<B>>,
    /// Commands that the host has.
    under_way: u16,
    free: u16,
    owners: PageTable<P, Owner>,
    /// Those who are to be woken when they have something to do.
    armed: Owners,
    /// Those who have.
    news: Owners,
    /// Those who were refused for want of room, and those of them for whom there is some now.
    waiting: Owners,
    roomy: Owners,
    /// Commands in flight of one owner, at most.
    depth: u16,
    later: u16,
    retry_at: Instant,
    /// Parameter lists. `None` once they were leaked.
    lists: Option<DmaRegion<P>>,
    pub wakers: WakerGroup<P>,
}

impl<P: Platform, Q: Port, B: DmaBuffer> Lane<P, Q, B> {
    /// A lane for `owners` owners of `depth` commands each at most.
    pub fn new(platform: &P, owners: usize, depth: u16) -> Result<Self, AllocError> {
        let count = depth.saturating_mul(2).clamp(2, NONE.wrapping_sub(1));
        let slots = PageTable::new(platform, usize::from(count), |at| {
            let next = (at as u16).wrapping_add(1);
            Slot {
                place: Place::Free,
                generation: 1,
                owner: ORPHAN,
                next: if next == count { NONE } else { next },
                attentions: 0,
                retries: 0,
                cdb: Cdb::test_unit_ready(),
                len: 0,
                transferred: 0,
                result: Ok(()),
                is_absent: false,
                wanted: None,
            }
        })?;
        Ok(Self {
            port: None,
            failed: None,
            slots,
            under_way: 0,
            free: 0,
            owners: PageTable::new(platform, owners.min(MOST_OWNERS), |_| IDLE)?,
            armed: 0,
            news: 0,
            waiting: 0,
            roomy: 0,
            depth,
            later: 0,
            retry_at: Instant::NEVER,
            lists: Some(DmaRegion::alloc(platform, usize::from(count).saturating_mul(LIST_STRIDE))?),
            wakers: WakerGroup::new(platform, owners)?,
        })
    }

    /// Takes a command of `owner`: the tag and what else is known of it, and its data. `make` makes it of the data's segments, and
    /// says how many bytes have to be transferred.
    #[inline(always)]
    pub fn submit(
        &mut self,
        owner: u16,
        wanted: Wanted<B>,
        make: impl Make,
    ) -> Result<(), (Rejected, Data<B>)> {
        let Self { port, slots, owners, free, lists, depth, waiting, under_way, .. } = self;
        let Some(port) = port else { return Err((Fault::Reset.into(), wanted.data)) };
        let at = *free;
        let (Some(mine), Some(slot)) = (owners.get_mut(usize::from(owner)), slots.get_mut(usize::from(at)))
        else {
            *waiting |= bit(owner);
            return Err((Rejected::Full, wanted.data));
        };
        if mine.in_flight >= *depth {
            return Err((Rejected::Full, wanted.data));
        }
        // The last slot is the controller's, which could wait for ever for those who have the others.
        if slot.next == NONE && owner != CONTROLLER {
            *waiting |= bit(owner);
            return Err((Rejected::Full, wanted.data));
        }
        slot.wanted = Some(wanted);
        let Some(wanted) = &mut slot.wanted else { return Err((Rejected::Invalid, Data::None)) };
        slot.attentions = 0;
        slot.retries = 0;
        let id = pack(slot.generation, at);
        let sent = transmit(port, id, wanted, lists, at, (&mut slot.cdb, &mut slot.len), make);
        match sent {
            Ok(()) => {
                slot.place = Place::Sent;
                slot.owner = owner;
                *free = slot.next;
                *under_way = under_way.wrapping_add(1);
                mine.in_flight = mine.in_flight.wrapping_add(1);
                Ok(())
            }
            Err(reason) => {
                if reason == Rejected::Full {
                    // What is in the ring has to get out of it.
                    port.kick();
                    *waiting |= bit(owner);
                }
                let data = slot.wanted.take().map_or(Data::None, |wanted| wanted.data);
                Err((reason, data))
            }
        }
    }

    /// Commands of `owner` that have not been taken back yet.
    pub fn in_flight(&self, owner: u16) -> u16 {
        self.owners.get(usize::from(owner)).map_or(0, |owner| owner.in_flight)
    }

    /// Commands that the host has, or is to get.
    pub fn outstanding(&self) -> usize {
        self.slots.iter().filter(|slot| matches!(slot.place, Place::Sent | Place::Later)).count()
    }

    /// The earliest deadline of what `owner` has in flight.
    pub fn deadline(&self, owner: u16) -> Instant {
        let mine = self
            .slots
            .iter()
            .filter(|slot| slot.owner == owner && matches!(slot.place, Place::Sent | Place::Later));
        mine.flat_map(|slot| &slot.wanted).map(|wanted| wanted.deadline).min().unwrap_or(Instant::NEVER)
    }

    /// When something has to be sent again.
    pub fn retry_at(&self) -> Instant {
        if self.later == 0 { Instant::NEVER } else { self.retry_at }
    }

    /// Takes what is done of `owner`, the oldest first.
    #[inline(always)]
    pub fn take(&mut self, owner: u16) -> Option<Finished<B>> {
        let mine = self.owners.get_mut(usize::from(owner))?;
        let at = mine.head;
        let slot = self.slots.get_mut(usize::from(at))?;
        mine.head = slot.next;
        if mine.head == NONE {
            mine.tail = NONE;
            self.news &= !bit(owner);
        }
        mine.in_flight = mine.in_flight.wrapping_sub(1);
        let (result, transferred, is_absent) = (slot.result, slot.transferred, slot.is_absent);
        let Wanted { tag, data, .. } = slot.wanted.take()?;
        self.release(at);
        if self.waiting != 0 {
            self.make_room();
        }
        Some(Finished { tag, data, result, transferred, is_absent })
    }

    #[inline(always)]
    fn release(&mut self, at: u16) {
        if let Some(slot) = self.slots.get_mut(usize::from(at)) {
            slot.place = Place::Free;
            slot.owner = ORPHAN;
            slot.generation = slot.generation.wrapping_add(1);
            slot.next = self.free;
            self.free = at;
        }
    }

    /// Takes everything that came in, for `owner` and for the others, and sends again what is due.
    #[inline]
    pub fn pump(&mut self, shared: &Shared<P>, owner: u16) -> Result<(), Fault> {
        if let Some(fault) = self.failed {
            return Err(fault);
        }
        let taken = self.take_in(shared, owner);
        self.failed = taken.err().filter(|_| self.port.is_some());
        taken
    }

    #[inline(always)]
    fn take_in(&mut self, shared: &Shared<P>, owner: u16) -> Result<(), Fault> {
        let mut came = false;
        while let Some(event) = self.port.as_mut().ok_or(Fault::Reset)?.next()? {
            match event {
                Event::Reply { id: RESET_ID, .. } => {}
                Event::Reply { id, status, transferred } => self.reply(shared, id, status, transferred)?,
                Event::Rescan => shared.want_scan(),
            }
            came = true;
            // All that was asked for is there: a look for more would be in vain, but for news, of which an interrupt tells.
            if self.under_way == 0 {
                self.port.iter_mut().for_each(Port::pause);
                break;
            }
        }
        if self.later > 0 {
            came |= self.send_again(shared);
        }
        if came {
            self.armed &= !bit(owner);
            if self.waiting != 0 {
                self.make_room();
            }
            if self.armed != 0 {
                self.wake();
            }
        }
        Ok(())
    }

    /// Wakes the others who have something to do, and keeps the interrupt on for the rest.
    fn wake(&mut self) {
        self.wake_those(self.news);
        if self.armed != 0
            && let Some(port) = &mut self.port
            && port.arm() == Arm::Pending
        {
            // Something came in just now: those who sleep are to look.
            self.armed = 0;
            self.wakers.wake_all();
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

    /// There is room again: those who wait for it look, now or when they would sleep.
    #[cold]
    fn make_room(&mut self) {
        self.roomy |= core::mem::take(&mut self.waiting);
        self.wake_those(self.roomy);
    }

    #[inline(always)]
    fn reply(&mut self, shared: &Shared<P>, id: u64, status: Status, transferred: u32) -> Result<(), Fault> {
        let at = (id as u32).wrapping_sub(1) as u16;
        let slot = self
            .slots
            .get_mut(usize::from(at))
            .filter(|slot| slot.place == Place::Sent && pack(slot.generation, at) == id);
        let Some(slot) = slot else {
            log::error!("scsi: a reply to a command that is not under way");
            return Err(Fault::Protocol);
        };
        self.under_way = self.under_way.wrapping_sub(1);
        if let Some(Wanted { data: Data::Buffer(buffer, _), .. }) = &mut slot.wanted {
            // SAFETY: it was lent when the command was sent, and the host has answered.
            unsafe { buffer.reclaim() };
        }
        slot.transferred = transferred;
        slot.is_absent = false;
        let is_last = matches!(&slot.wanted, Some(Wanted { stage: Stage::Last, .. }));
        if status == Status::Good && transferred == slot.len && is_last {
            self.finish(at, Ok(()));
        } else {
            self.judge(shared, at, status);
        }
        Ok(())
    }

    /// Goes on with a command whose reply is more than a success.
    #[cold]
    fn judge(&mut self, shared: &Shared<P>, at: u16, status: Status) {
        let Some(slot) = self.slots.get_mut(usize::from(at)) else { return };
        let Some(wanted) = &mut slot.wanted else { return };
        let meaning = match status {
            Status::Good => Meaning::Done,
            Status::Check(Some(sense)) => sense.meaning(),
            Status::Check(None) | Status::Error => Meaning::Failed(IoError::Device),
            Status::Busy => {
                slot.retries = slot.retries.saturating_add(1);
                if slot.retries <= MOST_RETRIES {
                    return self.put_off(shared.now().saturating_add(RETRY_AFTER), at);
                }
                Meaning::Failed(IoError::Device)
            }
            Status::NoUnit => {
                slot.is_absent = true;
                shared.gone(slot.owner, wanted.address);
                Meaning::Failed(IoError::Aborted)
            }
            Status::Aborted => Meaning::Failed(IoError::Aborted),
        };
        match meaning {
            Meaning::Done if slot.len > 0 && slot.transferred != slot.len => {
                self.finish(at, Err(IoError::Device));
            }
            Meaning::Done if wanted.stage == Stage::FlushBehind => {
                // The same slot carries the flush; the buffer waits in it.
                wanted.stage = Stage::Last;
                wanted.data = match core::mem::replace(&mut wanted.data, Data::None) {
                    Data::Buffer(buffer, _) => Data::Held(buffer),
                    data => data,
                };
                (slot.cdb, slot.len) = (Cdb::synchronize_cache(), 0);
                self.put_off(Instant::ZERO, at);
            }
            Meaning::Done => self.finish(at, Ok(())),
            Meaning::Again(Attention::NotReady) => {
                slot.retries = slot.retries.saturating_add(1);
                if slot.retries > MOST_RETRIES {
                    self.finish(at, Err(IoError::Device));
                } else {
                    self.put_off(shared.now().saturating_add(RETRY_AFTER), at);
                }
            }
            Meaning::Again(attention) => {
                match attention {
                    Attention::Unit => shared.changed(slot.owner),
                    Attention::Inventory => shared.want_scan(),
                    _ => {}
                }
                slot.attentions = slot.attentions.saturating_add(1);
                if slot.attentions > MOST_ATTENTIONS {
                    self.finish(at, Err(IoError::Device));
                } else {
                    self.put_off(Instant::ZERO, at);
                }
            }
            Meaning::Failed(error) => {
                if error == IoError::ReadOnly {
                    shared.changed(slot.owner);
                }
                self.finish(at, Err(error));
            }
        }
    }

    /// Sends it again at `when`.
    fn put_off(&mut self, when: Instant, at: u16) {
        if let Some(slot) = self.slots.get_mut(usize::from(at)) {
            slot.place = Place::Later;
            slot.generation = slot.generation.wrapping_add(1);
            self.retry_at = if self.later == 0 { when } else { self.retry_at.min(when) };
            self.later = self.later.saturating_add(1);
            let owner = slot.owner;
            // When it is due is something that they sleep until.
            self.wake_those(bit(owner));
        }
    }

    /// Sends what is due again; whether anything has become of it that somebody waits for.
    #[cold]
    fn send_again(&mut self, shared: &Shared<P>) -> bool {
        let now = shared.now();
        if now < self.retry_at {
            return false;
        }
        let mut has_ended = false;
        self.retry_at = Instant::NEVER;
        for at in 0..self.slots.len() as u16 {
            let Self { port: Some(port), slots, lists, .. } = self else { return has_ended };
            let Some(slot) = slots.get_mut(usize::from(at)).filter(|slot| slot.place == Place::Later) else {
                continue;
            };
            let Some(wanted) = &mut slot.wanted else { continue };
            let id = pack(slot.generation, at);
            let again = Again(slot.len);
            match transmit(port, id, wanted, lists, at, (&mut slot.cdb, &mut slot.len), again) {
                Ok(()) => {
                    slot.place = Place::Sent;
                    self.under_way = self.under_way.wrapping_add(1);
                    self.later = self.later.wrapping_sub(1);
                }
                Err(Rejected::Full) => {
                    self.retry_at = now.saturating_add(RETRY_AFTER);
                    break;
                }
                Err(_) => {
                    self.later = self.later.wrapping_sub(1);
                    self.finish(at, Err(IoError::Device));
                    has_ended = true;
                }
            }
        }
        if let Some(port) = &mut self.port {
            port.kick();
        }
        has_ended
    }

    /// Puts a command in the list of its owner; what nobody owns is dropped.
    #[inline(always)]
    fn finish(&mut self, at: u16, result: Result<(), IoError>) {
        let Some(slot) = self.slots.get_mut(usize::from(at)) else { return };
        let Some(owner) = self.owners.get_mut(usize::from(slot.owner)) else {
            slot.wanted = None;
            return self.release(at);
        };
        self.news |= bit(slot.owner);
        slot.place = Place::Done;
        slot.result = result;
        slot.next = NONE;
        let last = core::mem::replace(&mut owner.tail, at);
        match self.slots.get_mut(usize::from(last)) {
            Some(last) => last.next = at,
            None => owner.head = at,
        }
    }

    /// Ends everything that is under way, after the port is gone. What the host has let go of comes back as aborted; else it
    /// is leaked.
    pub fn end(&mut self, has_let_go: bool) {
        self.failed = None;
        (self.later, self.under_way) = (0, 0);
        for at in 0..self.slots.len() as u16 {
            let Some(slot) = self.slots.get_mut(usize::from(at)) else { return };
            let is_sent = slot.place == Place::Sent;
            if !is_sent && slot.place != Place::Later {
                continue;
            }
            slot.generation = slot.generation.wrapping_add(1);
            if let (true, Some(Wanted { data: Data::Buffer(buffer, _), .. })) = (is_sent, &mut slot.wanted) {
                if !has_let_go {
                    // Dropped as it is lent, its memory is never used again; there is nothing to give back.
                    slot.wanted = None;
                    if let Some(owner) = self.owners.get_mut(usize::from(slot.owner)) {
                        owner.in_flight = owner.in_flight.wrapping_sub(1);
                    }
                    self.release(at);
                    continue;
                }
                // SAFETY: it was lent when the command was sent, and the host has confirmed that it let go.
                unsafe { buffer.reclaim() };
            }
            self.finish(at, Err(IoError::Aborted));
        }
        if !has_let_go {
            self.lists.take().into_iter().for_each(DmaRegion::leak);
        }
        self.armed = 0;
        self.wakers.wake_all();
    }

    /// Gives up what `owner` has: it is dropped as it comes back.
    pub fn abandon(&mut self, owner: u16) {
        while self.take(owner).is_some() {}
        for slot in self.slots.iter_mut().filter(|slot| slot.owner == owner) {
            slot.owner = ORPHAN;
        }
        if let Some(mine) = self.owners.get_mut(usize::from(owner)) {
            *mine = IDLE;
        }
        self.waiting &= !bit(owner);
        self.roomy &= !bit(owner);
        self.disarm(owner);
    }

    /// Whether the next event wakes `owner`.
    pub fn arm(&mut self, owner: u16) -> Arm {
        if (self.news | self.roomy) & bit(owner) != 0 {
            self.roomy &= !bit(owner);
            return Arm::Pending;
        }
        let arm = self.port.as_mut().map_or(Arm::Armed, Port::arm);
        if arm == Arm::Armed {
            self.armed |= bit(owner);
        }
        arm
    }

    /// Asks for no interrupts, unless others want them.
    pub fn disarm(&mut self, owner: u16) {
        self.armed &= !bit(owner);
        if self.armed == 0
            && let Some(port) = &mut self.port
        {
            port.disarm();
        }
    }
}
