//! The rings that driver and adapter share: requests, completions and messages, and the page with their indices.

use crate::completion::{Completion, SENSE_LEN};
use crate::registers::Registers;
use core::mem::ManuallyDrop;
use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering, fence};
use paravirt_device::Fault;
use paravirt_platform::{AllocError, BusAddr, DmaRegion, PAGE_SIZE, PageArc, Platform, RingArray, Segment};

/// Entries of a page of requests, and of completions.
const REQUESTS_PER_PAGE: usize = 32;
const COMPLETIONS_PER_PAGE: usize = 128;
/// The maximum number of pages of a ring.
const MAX_PAGES: usize = 32;
/// Data segments of a command, at most: the elements of a slot's list.
pub(crate) const MAX_SEGMENTS: usize = 16;
/// Bytes of a slot's sense data and of its list of segments.
const SENSE_STRIDE: usize = 128;
const LIST_LEN: usize = MAX_SEGMENTS * 16;

/// Words of the state page. Indices run freely.
mod state {
    pub const REQUEST_PRODUCER: usize = 0;
    pub const REQUEST_CONSUMER: usize = 1;
    pub const COMPLETION_PRODUCER: usize = 3;
    pub const COMPLETION_CONSUMER: usize = 4;
    /// The adapter wants to hear of a request when as many are waiting.
    pub const CALL_THRESHOLD: usize = 6;
    pub const MESSAGE_PRODUCER: usize = 32;
    pub const MESSAGE_CONSUMER: usize = 33;
}

/// An entry of the request ring. The words behind the last one are not used.
pub(crate) type Request = [u64; 9];

pub(crate) struct Rings<P: Platform> {
    state: RingArray<AtomicU32>,
    requests: RingArray<[AtomicU64; 16]>,
    completions: RingArray<[AtomicU64; 4]>,
    sense: RingArray<[AtomicU64; SENSE_STRIDE / 8]>,
    lists: RingArray<[AtomicU64; LIST_LEN / 8]>,
    /// The page behind the rings, for answers of the adapter.
    answer: RingArray<AtomicU16>,
    /// The indices of the driver.
    requested: u32,
    completed: u32,
    messaged: u32,
    /// The rings with the state page, and the slots' areas: dropped last.
    memory: SharedPages<P>,
    areas: SharedPages<P>,
}

/// Memory that the adapter accesses while it is in service. When it is dropped the adapter is stopped, if it has not stopped; if it does not
/// stop, the memory is leaked.
struct SharedPages<P: Platform> {
    region: ManuallyDrop<DmaRegion<P>>,
    registers: PageArc<P, Registers<P>>,
}

impl<P: Platform> SharedPages<P> {
    fn new(registers: &PageArc<P, Registers<P>>, platform: &P, len: usize) -> Result<Self, AllocError> {
        let region = ManuallyDrop::new(DmaRegion::alloc(platform, len)?);
        Ok(Self { region, registers: registers.clone() })
    }
}

impl<P: Platform> Drop for SharedPages<P> {
    fn drop(&mut self) {
        // SAFETY: it is taken once, here, and not used after.
        let region = unsafe { ManuallyDrop::take(&mut self.region) };
        if !self.registers.has_released() {
            region.leak();
        }
    }
}

impl<P: Platform> Rings<P> {
    /// Allocates rings for `entries` requests, a power of two from 32 to 1024, of an adapter that has stopped.
    pub fn new(
        platform: &P,
        registers: &PageArc<P, Registers<P>>,
        entries: usize,
    ) -> Result<Self, AllocError> {
        let pages = entries.div_ceil(REQUESTS_PER_PAGE);
        let completion_pages = entries.div_ceil(COMPLETIONS_PER_PAGE);
        if !entries.is_power_of_two() || !(1..=MAX_PAGES).contains(&pages) {
            return Err(AllocError);
        }
        let at = |page: usize| page.wrapping_mul(PAGE_SIZE);
        let completions_at = pages.wrapping_add(1);
        // Of one page. What a message says is looked at by a scan.
        let messages_at = completions_at.wrapping_add(completion_pages);
        let memory = SharedPages::new(registers, platform, at(messages_at.wrapping_add(2)))?;
        let lists_at = entries.wrapping_mul(SENSE_STRIDE);
        let areas =
            SharedPages::new(registers, platform, lists_at.wrapping_add(entries.wrapping_mul(LIST_LEN)))?;
        // SAFETY: the arrays are declared before the memory, so that they are dropped first.
        unsafe {
            Ok(Self {
                state: memory.region.shared().ring_array(0, PAGE_SIZE / 4).ok_or(AllocError)?,
                requests: memory.region.shared().ring_array(at(1), entries).ok_or(AllocError)?,
                completions: memory
                    .region
                    .shared()
                    .ring_array(at(completions_at), completion_pages.wrapping_mul(COMPLETIONS_PER_PAGE))
                    .ok_or(AllocError)?,
                sense: areas.region.shared().ring_array(0, entries).ok_or(AllocError)?,
                lists: areas.region.shared().ring_array(lists_at, entries).ok_or(AllocError)?,
                answer: memory
                    .region
                    .shared()
                    .ring_array(at(messages_at.wrapping_add(1)), PAGE_SIZE / 2)
                    .ok_or(AllocError)?,
                requested: 0,
                completed: 0,
                messaged: 0,
                memory,
                areas,
            })
        }
    }

    /// Starts anew. No device accesses the memory.
    pub fn reset(&mut self) {
        (self.requested, self.completed, self.messaged) = (0, 0, 0);
        (0..self.state.len()).for_each(|word| self.state.at(word).store(0, Ordering::Relaxed));
    }

    fn page_number(&self, page: usize) -> u64 {
        (self.memory.region.bus().0 >> PAGE_SIZE.trailing_zeros()).wrapping_add(page as u64)
    }

    fn request_pages(&self) -> usize {
        self.requests.len() / REQUESTS_PER_PAGE
    }

    fn completion_pages(&self) -> usize {
        self.completions.len() / COMPLETIONS_PER_PAGE
    }

    /// The words of SETUP_RINGS: numbers of pages, the state page, and the pages of both rings.
    pub fn setup(&self) -> impl Iterator<Item = u32> + '_ {
        let (requests, completions) = (self.request_pages(), self.completion_pages());
        let list = move |first: usize, count: usize| {
            (0..MAX_PAGES)
                .map(move |page| if page < count { self.page_number(first.wrapping_add(page)) } else { 0 })
        };
        let pages = core::iter::once(self.page_number(0))
            .chain(list(1, requests))
            .chain(list(requests.wrapping_add(1), completions));
        [requests as u32, completions as u32].into_iter().chain(pages.flat_map(halves))
    }

    /// The words of SETUP_MSG_RING: the number of pages, and 16 pages.
    pub fn setup_messages(&self) -> impl Iterator<Item = u32> {
        let page =
            self.page_number(self.request_pages().wrapping_add(self.completion_pages()).wrapping_add(1));
        let pages = (0..16).map(move |index| if index == 0 { page } else { 0 });
        [1, 0].into_iter().chain(pages.flat_map(halves))
    }

    /// The page for answers of the adapter.
    pub fn answer(&self) -> &RingArray<AtomicU16> {
        &self.answer
    }

    /// The address of that page, the last one.
    pub fn answer_address(&self) -> BusAddr {
        self.memory.region.bus().offset(self.memory.region.len().saturating_sub(PAGE_SIZE) as u64)
    }

    pub fn entries(&self) -> usize {
        self.requests.len()
    }

    /// Writes a request behind those that were, in one of the ring's entries that is free as no more are in flight than there are.
    #[inline(always)]
    pub fn push(&mut self, request: &Request) {
        let entry = self.requests.at(self.requested as usize);
        entry.iter().zip(request).for_each(|(to, word)| to.store(*word, Ordering::Relaxed));
        self.requested = self.requested.wrapping_add(1);
    }

    /// Makes the requests visible to the adapter.
    #[inline(always)]
    pub fn publish(&self) {
        self.state.at(state::REQUEST_PRODUCER).store(self.requested, Ordering::Release);
    }

    /// Returns whether the adapter wants to hear of the published requests. It polls while it has work.
    pub fn is_kick_due(&self) -> bool {
        // What was published is visible before it is looked at what the adapter has consumed.
        fence(Ordering::SeqCst);
        let consumed = self.state.at(state::REQUEST_CONSUMER).load(Ordering::Relaxed);
        self.requested.wrapping_sub(consumed) >= self.state.at(state::CALL_THRESHOLD).load(Ordering::Relaxed)
    }

    /// Writes the list of `segments` of a slot, and returns its address; `None` if there are too many.
    pub fn write_list(&self, slot: u16, segments: &[Segment]) -> Option<BusAddr> {
        if segments.len() > MAX_SEGMENTS {
            return None;
        }
        let words = segments.iter().flat_map(|segment| [segment.addr.0, u64::from(segment.len)]);
        self.lists
            .at(usize::from(slot))
            .iter()
            .zip(words)
            .for_each(|(to, word)| to.store(word, Ordering::Relaxed));
        let offset =
            self.entries().wrapping_mul(SENSE_STRIDE).wrapping_add(usize::from(slot).wrapping_mul(LIST_LEN));
        Some(self.areas.region.bus().offset(offset as u64))
    }

    /// The address of the sense data of a slot.
    #[inline(always)]
    pub fn sense_address(&self, slot: u16) -> BusAddr {
        self.areas.region.bus().offset((usize::from(slot).wrapping_mul(SENSE_STRIDE)) as u64)
    }

    /// Takes the sense data of a slot out, so that they are not taken for those of the next command.
    pub fn take_sense(&self, slot: u16) -> [u8; SENSE_LEN] {
        let mut bytes = [0; SENSE_LEN];
        for (to, word) in bytes.chunks_exact_mut(8).zip(self.sense.at(usize::from(slot))) {
            to.copy_from_slice(&word.swap(0, Ordering::Relaxed).to_le_bytes());
        }
        bytes
    }

    /// The next completion, which stays; `None` if there is none.
    #[inline(always)]
    pub fn peek(&self) -> Result<Option<Completion>, Fault> {
        let produced = self.state.at(state::COMPLETION_PRODUCER).load(Ordering::Acquire);
        match produced.wrapping_sub(self.completed) as usize {
            0 => Ok(None),
            count if count > self.completions.len() => Err(Fault::Protocol),
            _ => {
                let entry = self.completions.at(self.completed as usize);
                let [context, transferred, third, fourth] = entry;
                let word = |word: &AtomicU64| word.load(Ordering::Relaxed);
                Ok(Some(Completion::new([word(context), word(transferred), word(third), word(fourth)])))
            }
        }
    }

    /// Takes the completion that [`peek`](Self::peek) has returned.
    #[inline(always)]
    pub fn advance(&mut self) {
        self.completed = self.completed.wrapping_add(1);
        self.state.at(state::COMPLETION_CONSUMER).store(self.completed, Ordering::Release);
    }

    /// Takes all messages; returns whether there was any. A producer index that cannot be is corrected by the next scan.
    pub fn take_messages(&mut self) -> bool {
        let produced = self.state.at(state::MESSAGE_PRODUCER).load(Ordering::Acquire);
        let has_any = produced != core::mem::replace(&mut self.messaged, produced);
        if has_any {
            self.state.at(state::MESSAGE_CONSUMER).store(produced, Ordering::Release);
        }
        has_any
    }

    /// Returns whether there is a completion.
    pub fn has_completion(&self) -> bool {
        self.state.at(state::COMPLETION_PRODUCER).load(Ordering::Acquire) != self.completed
    }

    /// Returns whether there is a message.
    pub fn has_message(&self) -> bool {
        self.state.at(state::MESSAGE_PRODUCER).load(Ordering::Acquire) != self.messaged
    }
}

fn halves(word: u64) -> [u32; 2] {
    [word as u32, (word >> 32) as u32]
}
