//! Whole drivers: a byte string is read as steps of a hostile host, which answers, forges, scribbles, resets and disappears, between calls
//! of the kernel. Checked throughout: no panic, a bounded number of waits, every request back at most once and its buffer not in
//! flight, and, in the end, no memory lost unless the host had it.

mod services;
mod virtio;
mod vmbus;
mod vmware;
mod xen;

pub use services::{hv_balloon_driver, hv_ic_driver, hv_input_driver, hv_socket_driver};
pub use virtio::{
    virtio_balloon, virtio_blk, virtio_console, virtio_entropy, virtio_input, virtio_net, virtio_scsi,
    virtio_sockets,
};
pub use vmbus::{netvsc_driver, storvsc_driver};
pub use vmware::{pvscsi_driver, vmxnet3_driver};
pub use xen::{blkfront_driver, netfront_driver, xenstore_driver};

use paravirt_device::{
    BalloonMemory, BlockQueue, Durability, MemoryStatistics, NetQueue, NetRx, NetTx, Op, PageRange, Request,
    TxMeta, Unmap,
};
use paravirt_platform::{DmaSlice, Platform};
use paravirt_testhost::Guest;
use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The maximum number of polls of a wait in one run: longer runs hang.
const MAX_WAITS: u64 = 1_000_000;

/// The bytes that decide what happens.
struct Steps<'a>(&'a [u8]);

impl Steps<'_> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// A byte, or 0 at the end.
    fn byte(&mut self) -> u8 {
        self.next().unwrap_or(0)
    }

    fn word(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    fn take(&mut self, len: usize) -> Vec<u8> {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken.to_vec()
    }
}

/// Changes that the next answers undergo: the position of a byte, and its value.
type Changes = Arc<Mutex<VecDeque<(u8, u8)>>>;

fn next_change(changes: &Changes) -> Option<(usize, u8)> {
    changes.lock().expect("changes").pop_front().map(|(at, value)| (usize::from(at), value))
}

thread_local! {
    /// A guest for the next run, and the polls of its waits: to map the memory takes longer than most runs, and a guest never ends whose
    /// drivers leaked a handle of it.
    static SPARE: RefCell<Option<(Guest, Arc<AtomicU64>)>> = const { RefCell::new(None) };
}

/// Runs `work` in a guest whose clock runs fast while a driver waits.
fn in_guest(work: impl FnOnce(&Guest)) {
    let (guest, waits) = SPARE.take().unwrap_or_else(|| {
        let guest = Guest::with(1, true);
        let (clock, waits) = (guest.downgrade(), Arc::new(AtomicU64::new(0)));
        let count = waits.clone();
        guest.attach(move || {
            clock.turn(Duration::from_millis(250));
            assert!(count.fetch_add(1, Ordering::Relaxed) < MAX_WAITS, "a driver waits without end");
        });
        (guest, waits)
    });
    waits.store(0, Ordering::Relaxed);
    work(&guest);
    if guest.bound_handlers() == 0 {
        // SAFETY: the drivers and the devices of the run are gone, no handler is bound, and what was leaked is never used again.
        unsafe { guest.free_all() };
        SPARE.set(Some((guest, waits)));
    }
}

/// The requests to a disk: each tag comes back once.
#[derive(Default)]
struct Requests {
    next: u64,
    outstanding: BTreeSet<u64>,
}

impl Requests {
    /// One call of the kernel on a disk's queue.
    fn call<Q>(&mut self, guest: &Guest, queue: &mut Q, steps: &mut Steps<'_>)
    where
        Q: BlockQueue<Buffer = DmaSlice<Guest>>,
    {
        match steps.byte() % 10 {
            0..=3 => self.submit(guest, queue, steps),
            4 => queue.kick(),
            5 | 6 => {
                for _ in 0..64 {
                    match queue.complete() {
                        Ok(Some(done)) => {
                            assert!(self.outstanding.remove(&done.tag), "tag {} twice", done.tag);
                            assert!(done.buffer.is_none_or(|buffer| !buffer.is_in_flight()));
                        }
                        _ => break,
                    }
                }
            }
            7 => drop(queue.arm()),
            8 => {
                guest.turn(Duration::from_secs(u64::from(steps.byte())));
                let _ = queue.expire(guest.now());
            }
            _ => drop(queue.reset()),
        }
    }

    fn submit<Q>(&mut self, guest: &Guest, queue: &mut Q, steps: &mut Steps<'_>)
    where
        Q: BlockQueue<Buffer = DmaSlice<Guest>>,
    {
        let (lba, kind) = (u64::from(steps.byte()), steps.byte());
        let Ok(buffer) = DmaSlice::alloc(guest, 512 << (kind >> 4 & 3)) else { return };
        let durability = if kind & 8 == 0 { Durability::Cached } else { Durability::Durable };
        let op = match kind % 8 {
            0..=2 => Op::Read { lba, into: buffer },
            3 | 4 => Op::Write { lba, from: buffer, durability },
            5 => Op::Flush,
            6 => Op::Discard { lba, blocks: 8 },
            _ => Op::WriteZeroes { lba, blocks: 8, unmap: Unmap::May },
        };
        self.next += 1;
        let deadline = guest.now().saturating_add(Duration::from_secs(30));
        match queue.submit(Request::new(self.next, op).with_deadline(deadline)) {
            Ok(()) => assert!(self.outstanding.insert(self.next)),
            Err(refused) => {
                assert!(refused.request.op.into_buffer().is_none_or(|buffer| !buffer.is_in_flight()));
            }
        }
    }
}

/// The frames that are sent from buffers of the caller: each tag comes back once.
#[derive(Default)]
struct Frames {
    next: u64,
    outstanding: BTreeSet<u64>,
}

impl Frames {
    /// One call of the kernel on a pair of a card's queues.
    fn call<Q>(&mut self, choice: u8, guest: &Guest, queue: &mut Q, steps: &mut Steps<'_>)
    where
        Q: NetQueue<Tx: NetTx<Buffer = DmaSlice<Guest>>>,
    {
        match choice {
            0..=2 => self.poll(queue),
            3 => receive_frame(queue),
            4 => send_slot(queue, steps),
            5 => self.send(guest, queue),
            6 => drop(queue.arm()),
            7 => drop(queue.expire(guest.now())),
            _ => drop(queue.reset()),
        }
    }

    /// Takes back what was sent.
    fn poll<Q: NetQueue<Tx: NetTx<Buffer = DmaSlice<Guest>>>>(&mut self, queue: &mut Q) {
        let _ = queue.poll();
        while let Some(sent) = queue.split().1.sent() {
            assert!(self.outstanding.remove(&sent.tag), "tag {} twice", sent.tag);
            assert!(sent.buffer.is_none_or(|buffer| !buffer.is_in_flight()));
        }
    }

    /// Sends a buffer.
    fn send<Q: NetQueue<Tx: NetTx<Buffer = DmaSlice<Guest>>>>(&mut self, guest: &Guest, queue: &mut Q) {
        let Ok(buffer) = DmaSlice::alloc(guest, 64) else { return };
        self.next += 1;
        match queue.split().1.send(self.next, buffer, TxMeta::new()) {
            Ok(()) => assert!(self.outstanding.insert(self.next)),
            Err(refused) => assert!(!refused.buffer.is_in_flight()),
        }
        queue.split().1.kick();
    }
}

/// Reads the frame that was received first.
fn receive_frame<Q: NetQueue>(queue: &mut Q) {
    let (rx, _) = queue.split();
    let mut scratch = [0; 4096];
    let _ = rx.contiguous(&mut scratch).map(|bytes| bytes.len());
    rx.pop();
}

/// Sends a frame that is written to a slot.
fn send_slot<Q: NetQueue>(queue: &mut Q, steps: &mut Steps<'_>) {
    let len = usize::from(steps.word() % 1600);
    let (_, tx) = queue.split();
    if tx.reserve(len) {
        tx.slot().get_mut(..len).expect("as much as was reserved").fill(1);
        let _ = tx.commit(len, TxMeta::new());
    }
    tx.kick();
}

/// Memory of a kernel for a balloon: page frames above the guest's memory.
#[derive(Default)]
struct PageFrames {
    next: u64,
    taken: BTreeSet<u64>,
}

impl BalloonMemory for PageFrames {
    fn take(&mut self, most: u64) -> Option<PageRange> {
        let range = PageRange { first: (1 << 24) + self.next, count: most.min(4) };
        self.next += range.count;
        self.taken.extend(range.first..range.end());
        Some(range)
    }
    fn release(&mut self, range: PageRange) {
        assert!(range.count > 0, "an empty range");
        (range.first..range.end())
            .for_each(|frame| assert!(self.taken.remove(&frame), "{frame:#x} was not taken"));
    }
    fn statistics(&mut self) -> MemoryStatistics {
        MemoryStatistics::default()
    }
}
