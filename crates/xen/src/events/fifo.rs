//! Event channels of the FIFO interface: a word for each port, by which the ports with events are linked, and the queues of each processor,
//! of which each has a priority.
//!
//! An event sets a flag in the port's word. If the port is not masked and not linked already, it is linked to the end of a queue, and the
//! queue's bit is set for the processor.
//!
//! A domain that uses the interface leaves it only by a reset that closes all event channels, those of xenstore and the console as well. So
//! the pages are some that the platform keeps for good, and a later user takes them over. Source: Xen
//! `xen/include/public/event_channel.h`.

use crate::calls::{CallError, Calls};
use core::hint::spin_loop;
use core::sync::atomic::{AtomicU32, Ordering};
use paravirt_platform::{AllocError, PAGE_SIZE, PageTable, Platform, SharedMemory};

/// How many pages it takes: one of what each processor has, and one of words.
pub const PAGES: usize = 2;
/// What a processor has: a bit for each queue that is not empty, and behind that the first port of each.
const BLOCK_LEN: usize = 128;
const HEADS: usize = 8;
const QUEUES: usize = 16;
/// Ports with a word.
const PORTS: usize = PAGE_SIZE / 4;
/// Flags of a word, and the next port of the queue.
const PENDING: u32 = 1 << 31;
const MASKED: u32 = 1 << 30;
const LINKED: u32 = 1 << 29;
const BUSY: u32 = 1 << 28;
const LINK: u32 = (1 << 17) - 1;
/// How often a word is read that the hypervisor is changing: it needs a few instructions for that.
const TRIES: u32 = 1 << 16;

/// The memory of the interface.
pub struct Fifo<P: Platform> {
    memory: SharedMemory,
    /// The number of the first page.
    frame: u64,
    /// For each queue of each processor, the port that is next to be taken; 0 if it is the hypervisor that says which one.
    next: PageTable<P, AtomicU32>,
}

impl<P: Platform> Fifo<P> {
    /// Uses the first pages of `memory`, at frame `frame`, for processors with numbers below `vcpus`.
    pub fn new(platform: &P, memory: SharedMemory, frame: u64, vcpus: u32) -> Result<Self, AllocError> {
        let count = (vcpus as usize).checked_mul(QUEUES).ok_or(AllocError)?;
        let next = PageTable::new(platform, count, |_| AtomicU32::new(0))?;
        Ok(Self { memory, frame, next })
    }

    /// Makes the hypervisor use the memory for the events of processor `vcpu`. The first success changes the interface of the domain.
    pub fn add_vcpu(&self, calls: &Calls<P>, vcpu: u32) -> Result<(), CallError> {
        let offset = vcpu.wrapping_mul(BLOCK_LEN as u32);
        // SAFETY: the page is shared memory for good, and accessed as such only.
        unsafe { calls.init_event_queues(vcpu, self.frame, offset) }
    }

    /// Adds the words of all ports, which are clear, once the hypervisor uses the memory. There are no events before that.
    pub fn add_words(&self, calls: &Calls<P>) -> Result<(), CallError> {
        // SAFETY: as in `add_vcpu`.
        unsafe { calls.add_event_words(self.frame.saturating_add(1)) }
    }

    /// Masks every port, forgets its event, and empties the queues. The hypervisor begins a queue anew whose last port is not linked.
    pub fn clear(&self) {
        self.mask_all();
        (0..PORTS as u32)
            .filter_map(|port| self.word(port))
            .for_each(|word| word.store(MASKED, Ordering::SeqCst));
        let blocks = self.memory.slice_at::<AtomicU32>(0, PAGE_SIZE / 4).into_iter().flatten();
        blocks.chain(self.next.iter()).for_each(|word| word.store(0, Ordering::SeqCst));
    }

    /// Masks every port.
    pub fn mask_all(&self) {
        (0..PORTS as u32).for_each(|port| self.mask(port));
    }

    fn word(&self, port: u32) -> Option<&AtomicU32> {
        let port = Some(port as usize).filter(|port| *port < PORTS)?;
        self.memory.at(PAGE_SIZE.checked_add(port.checked_mul(4)?)?)
    }

    pub fn mask(&self, port: u32) {
        if let Some(word) = self.word(port) {
            word.fetch_or(MASKED, Ordering::SeqCst);
        }
    }

    pub fn unmask(&self, port: u32) {
        let Some(word) = self.word(port) else { return };
        // While the hypervisor links it, the flags are to stay.
        for _ in 0..TRIES {
            let seen = word.load(Ordering::SeqCst);
            let is_done = seen & BUSY == 0
                && word.compare_exchange(seen, seen & !MASKED, Ordering::SeqCst, Ordering::Relaxed).is_ok();
            if is_done {
                return;
            }
            spin_loop();
        }
        word.fetch_and(!MASKED, Ordering::SeqCst);
    }

    /// Takes the event of a port; returns whether there was one.
    pub fn take(&self, port: u32) -> bool {
        self.word(port).is_some_and(|word| word.fetch_and(!PENDING, Ordering::SeqCst) & PENDING != 0)
    }

    /// Empties the queues of processor `vcpu`: takes the events of the ports that are not masked, and masks those.
    pub fn take_all(&self, vcpu: u32, mut wake: impl FnMut(u32)) {
        let Some(block) = (vcpu as usize).checked_mul(BLOCK_LEN) else { return };
        let Some(ready) = self.memory.at::<AtomicU32>(block).filter(|_| block < PAGE_SIZE) else { return };
        // A queue that is filled later raises another interrupt.
        let mut queues = ready.swap(0, Ordering::SeqCst) & ((1 << QUEUES) - 1);
        while queues != 0 {
            let queue = queues.trailing_zeros();
            while self.take_first(vcpu, block, queue as usize, &mut wake).is_some() {}
            queues &= queues.wrapping_sub(1);
        }
    }

    /// Takes the first port of a queue; `None` if it was the last one.
    fn take_first(&self, vcpu: u32, block: usize, queue: usize, wake: &mut impl FnMut(u32)) -> Option<()> {
        let next = self.next.get((vcpu as usize).checked_mul(QUEUES)?.checked_add(queue)?)?;
        let head =
            self.memory.at::<AtomicU32>(block.checked_add(HEADS)?.checked_add(queue.checked_mul(4)?)?)?;
        let port = match next.swap(0, Ordering::Relaxed) {
            0 => head.load(Ordering::SeqCst),
            port => port,
        };
        let word = self.word(port)?;
        let seen = word.fetch_and(!(LINKED | LINK), Ordering::SeqCst);
        let link = seen & LINK;
        next.store(link, Ordering::Relaxed);
        if seen & (PENDING | MASKED) == PENDING {
            word.fetch_or(MASKED, Ordering::SeqCst);
            word.fetch_and(!PENDING, Ordering::SeqCst);
            wake(port);
        }
        (link != 0).then_some(())
    }
}
