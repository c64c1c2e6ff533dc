//! What the device took in from a queue's channel while it waited for an answer.

use crate::completions::PendingCompletions;
use crate::pump::PacketSink;
use crate::receive::{Added, Fragment, RxState};
use crate::send::TxState;
use crate::transmit_limits::MAX_SENDS;
use paravirt_device::Fault;
use paravirt_platform::{AllocError, DmaBuffer, Fifo, Platform};

/// The contents of packets that came in on a channel whose state a queue owns: the device keeps them here, and the queue moves
/// them to its own state at its next poll, before it reads the ring.
pub(crate) struct Backlog<P: Platform> {
    fragments: Fifo<P, Fragment>,
    /// The transaction of a packet, and how many of `fragments` came with it.
    packets: Fifo<P, (u64, u32)>,
    /// Completed sends, and whether the host reported success.
    sends: Fifo<P, (u64, bool)>,
    completions: PendingCompletions<P>,
    reserve: usize,
}

impl<P: Platform> Backlog<P> {
    /// A backlog of `frames` frames, of which `reserve` are kept free for the frames of one packet.
    pub fn new(platform: &P, frames: usize, reserve: usize) -> Result<Self, AllocError> {
        Ok(Self {
            fragments: Fifo::new(platform, frames)?,
            packets: Fifo::new(platform, frames)?,
            sends: Fifo::new(platform, MAX_SENDS)?,
            completions: PendingCompletions::new(platform, frames)?,
            reserve,
        })
    }

    pub fn is_empty(&self) -> bool {
        self.packets.is_empty() && self.sends.is_empty() && self.completions.is_empty()
    }

    /// Moves everything that fits to the state of the queue.
    #[cold]
    pub fn move_to<B: DmaBuffer>(
        &mut self,
        rx: &mut RxState<P>,
        tx: &mut TxState<P, B>,
    ) -> Result<(), Fault> {
        while let Some((transaction, is_success)) = self.sends.pop() {
            // One that is not in flight is passed over: no memory depends on it.
            let _ = tx.complete(transaction, is_success);
        }
        while rx.has_room() {
            let Some((transaction, frames)) = self.packets.pop() else { break };
            let mut added = 0u32;
            for _ in 0..frames {
                // `add_packet` counted the fragments that `add_fragment` pushed.
                let fragment = self.fragments.pop().ok_or(Fault::Protocol)?;
                added = added.wrapping_add(u32::from(rx.add_fragment(fragment) != Added::No));
            }
            match added {
                0 => rx.completions.push_failed(transaction),
                frames => rx.add_packet(transaction, frames)?,
            }
        }
        while rx.has_room() {
            let Some(transaction) = self.completions.pop() else { break };
            rx.completions.push(transaction);
        }
        Ok(())
    }
}

impl<P: Platform> PacketSink<P> for Backlog<P> {
    fn has_room(&self) -> bool {
        self.fragments.len().saturating_add(self.reserve) <= self.fragments.capacity()
            && self.completions.len() < self.fragments.capacity()
            && self.sends.len() < self.sends.capacity()
    }

    fn add_fragment(&mut self, fragment: Fragment) -> Added {
        // `has_room` was asked.
        if self.fragments.push(fragment).is_ok() { Added::Yes } else { Added::No }
    }

    fn add_packet(&mut self, transaction: u64, frames: u32) -> Result<(), Fault> {
        self.packets.push((transaction, frames)).map_err(|_| Fault::Protocol)
    }

    fn complete_send(&mut self, transaction: u64, is_success: bool) -> Result<(), Fault> {
        self.sends.push((transaction, is_success)).map_err(|_| Fault::Protocol)
    }

    fn completions(&mut self) -> &mut PendingCompletions<P> {
        &mut self.completions
    }
}
