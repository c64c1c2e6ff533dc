//! Completions that the host still has to receive for packets of its own.

use hyperv_bindings::netvsp::{NvspMessageType, NvspSendRndisPacketComplete, NvspStatus};
use paravirt_device::Fault;
use paravirt_platform::{AllocError, Fifo, Platform};
use paravirt_vmbus::{Channel, SendError};
use zerocopy::IntoBytes;

/// Completions written to the ring after which the host is signalled, though more work is at hand.
const SIGNAL_AFTER: usize = 32;

/// Completions in the order in which their packets were consumed: first pending, then written to the ring, then published.
pub(crate) struct PendingCompletions<P: Platform> {
    pending: Fifo<P, u64>,
    /// The latest of them that report a failure. Few are kept: others report success, which only the host's counters show.
    failed: [u64; 8],
    failures: usize,
    /// Completions in the ring that no signal has announced.
    unannounced: usize,
}

impl<P: Platform> PendingCompletions<P> {
    pub fn new(platform: &P, capacity: usize) -> Result<Self, AllocError> {
        Ok(Self { pending: Fifo::new(platform, capacity)?, failed: [0; 8], failures: 0, unannounced: 0 })
    }

    pub fn len(&self) -> usize {
        self.pending.len()
    }

    /// Whether every completion is in the ring.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Adds the completion of `transaction`. Its users take no packet in while the queue is full.
    #[inline]
    pub fn push(&mut self, transaction: u64) {
        let pushed = self.pending.push(transaction);
        debug_assert!(pushed.is_ok(), "a packet was taken in without room for its completion");
    }

    /// Adds the completion of `transaction`, which reports that the packet was dropped.
    #[cold]
    pub fn push_failed(&mut self, transaction: u64) {
        if let Some(free) = self.failed.get_mut(self.failures) {
            *free = transaction;
            self.failures = self.failures.saturating_add(1);
        }
        self.push(transaction);
    }

    /// Returns the position of `transaction` among those that report a failure.
    #[cold]
    fn find_failed(&self, transaction: u64) -> Option<usize> {
        self.failed.get(..self.failures)?.iter().position(|failed| *failed == transaction)
    }

    /// Takes the oldest completion that is not in the ring.
    pub fn pop(&mut self) -> Option<u64> {
        self.pending.pop()
    }

    /// Writes completions to the ring until it is full. The host sees them at the next kick.
    #[inline]
    pub fn write_to(&mut self, channel: &mut Channel<P>) -> Result<(), Fault> {
        while let Some(transaction) = self.pending.get(0) {
            let transaction = *transaction;
            let failed = if self.failures > 0 { self.find_failed(transaction) } else { None };
            let message = NvspSendRndisPacketComplete {
                message_type: NvspMessageType::SEND_RNDIS_PACKET_COMPLETE,
                status: if failed.is_some() { NvspStatus::FAILURE } else { NvspStatus::SUCCESS },
            };
            match channel.send_completion(transaction, &[message.as_bytes()]) {
                Ok(()) => {
                    self.pending.pop();
                    if let Some(at) = failed {
                        self.failures = self.failures.saturating_sub(1);
                        let last = self.failed.get(self.failures).copied();
                        self.failed.get_mut(at).into_iter().zip(last).for_each(|(to, last)| *to = last);
                    }
                    self.unannounced = self.unannounced.saturating_add(1);
                }
                Err(SendError::Full) => break,
                Err(SendError::Faulted(fault)) => return Err(fault),
                Err(_) => return Err(Fault::Protocol),
            }
        }
        Ok(())
    }

    /// Whether the host is to be signalled now: many completions are in the ring, or some are and the caller is idle. The caller
    /// then kicks the channel.
    pub fn take_signal(&mut self, is_idle: bool) -> bool {
        let is_due = self.unannounced >= SIGNAL_AFTER || (is_idle && self.unannounced > 0);
        if is_due {
            self.unannounced = 0;
        }
        is_due
    }
}
