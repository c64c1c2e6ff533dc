//! The control queue of a network device. VIRTIO 1.3 §5.1.6.5

use crate::queue::{AreaRange, Parts};
use crate::request_queue::{BoxedQueue, Outcome};
use core::sync::atomic::Ordering;
use core::time::Duration;
use paravirt_device::{ControlError, Fault, MacAddr, ReceiveMode};
use paravirt_platform::{AllocError, Direction, DmaSlice, Platform};

/// The timeout of a command.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The length in bytes of the longest command, which has both address tables.
const COMMAND_LEN: usize = 1024;
/// The maximum number of multicast addresses.
pub(super) const MAX_MULTICAST: usize = 64;
/// `ack`: VIRTIO_NET_OK, and a value that the device does not write. VIRTIO 1.3 §5.1.6.5
const ACK_OK: u64 = 0;
const ACK_NONE: u64 = 0xff;

/// Class and command of each control command. VIRTIO 1.3 §5.1.6.5
const RX_PROMISC: [u8; 2] = [0, 0];
const RX_ALLMULTI: [u8; 2] = [0, 1];
const MAC_TABLE_SET: [u8; 2] = [1, 0];
const MAC_ADDR_SET: [u8; 2] = [1, 1];
const ANNOUNCE_ACK: [u8; 2] = [3, 0];
const MQ_PAIRS_SET: [u8; 2] = [4, 0];
const GUEST_OFFLOADS_SET: [u8; 2] = [5, 0];

/// The control queue, with one command in flight at most; each call polls until the device has completed its command.
pub(super) struct Control<P: Platform> {
    queue: BoxedQueue<P, DmaSlice<P>>,
    buffer: Option<DmaSlice<P>>,
}

impl<P: Platform> Control<P> {
    pub fn new(queue: BoxedQueue<P, DmaSlice<P>>) -> Result<Self, AllocError> {
        let buffer = DmaSlice::alloc(queue.device().platform(), COMMAND_LEN)?;
        Ok(Self { queue, buffer: Some(buffer) })
    }

    /// Reclaims the buffer of a command that a reset aborted, so that the device can restart.
    pub fn recover(&mut self) -> Result<(), Fault> {
        while let Some(Outcome::Used(used) | Outcome::Aborted(used)) = self.queue.next()? {
            self.buffer = used.buffer;
        }
        Ok(())
    }

    /// Runs one command with the concatenated `parts` as its data.
    fn command<'a>(
        &mut self,
        command: &'a [u8; 2],
        parts: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<(), ControlError> {
        self.recover()?;
        // There is no buffer after a command that timed out on a device that was not quiesced.
        let mut buffer = self.buffer.take().ok_or(Fault::Timeout)?;
        buffer.set_len(COMMAND_LEN);
        let mut end = 0usize;
        for part in [&command[..]].into_iter().chain(parts) {
            let next = end.saturating_add(part.len());
            match buffer.bytes_mut().get_mut(end..next) {
                Some(to) => to.iter_mut().zip(part.iter()).for_each(|(to, from)| *to = *from),
                None => {
                    self.buffer = Some(buffer);
                    return Err(ControlError::Refused);
                }
            }
            end = next;
        }
        buffer.set_len(end);
        let ack = [AreaRange::new(0, 1)];
        let queue = self.queue.queue_mut();
        let sent =
            queue.submit(Parts::around(&[], &ack), Some(buffer), Direction::ToDevice, (), |_, area| {
                if let Some([first, ..]) = area {
                    first.store(ACK_NONE, Ordering::Relaxed);
                }
                Ok(())
            });
        if let Err(refused) = sent {
            self.buffer = refused.buffer;
            return Err(ControlError::Refused);
        }
        self.queue.kick();
        self.wait()
    }

    fn wait(&mut self) -> Result<(), ControlError> {
        let platform = self.queue.device().platform().clone();
        let deadline = platform.now().saturating_add(TIMEOUT);
        loop {
            match self.queue.next()? {
                Some(Outcome::Used(used)) => {
                    self.buffer = used.buffer;
                    let ack =
                        self.queue.queue().area(used.slot).map(|area| area[0].load(Ordering::Relaxed) & 0xff);
                    return if ack == Some(ACK_OK) { Ok(()) } else { Err(ControlError::Refused) };
                }
                Some(Outcome::Aborted(used)) => {
                    self.buffer = used.buffer;
                    return Err(ControlError::Faulted(Fault::Reset));
                }
                None if platform.now() >= deadline => {
                    self.queue.reset_device()?;
                    return Err(ControlError::Faulted(Fault::Timeout));
                }
                None => platform.relax(),
            }
        }
    }

    pub fn set_receive_mode(&mut self, mode: ReceiveMode) -> Result<(), ControlError> {
        let [promiscuous, all_multicast] = match mode {
            ReceiveMode::Filtered => [0, 0],
            ReceiveMode::AllMulticast => [0, 1],
            ReceiveMode::Promiscuous => [1, 0],
            _ => return Err(ControlError::Unsupported),
        };
        self.command(&RX_PROMISC, [&[promiscuous][..]])?;
        self.command(&RX_ALLMULTI, [&[all_multicast][..]])
    }

    /// Sets the multicast table to `addresses`, at most 64, and the unicast table to none. VIRTIO 1.3 §5.1.6.5.2
    pub fn set_multicast(&mut self, addresses: &[MacAddr]) -> Result<(), ControlError> {
        if addresses.len() > MAX_MULTICAST {
            return Err(ControlError::Refused);
        }
        let count = (addresses.len() as u32).to_le_bytes();
        let lengths = [&[0; 4][..], &count[..]];
        self.command(&MAC_TABLE_SET, lengths.into_iter().chain(addresses.iter().map(|mac| &mac.0[..])))
    }

    /// Sets the MAC address. VIRTIO 1.3 §5.1.6.5.2
    pub fn set_mac(&mut self, mac: MacAddr) -> Result<(), ControlError> {
        self.command(&MAC_ADDR_SET, [&mac.0[..]])
    }

    /// Acknowledges an announcement request. VIRTIO 1.3 §5.1.6.5.4
    pub fn announced(&mut self) -> Result<(), ControlError> {
        self.command(&ANNOUNCE_ACK, [])
    }

    /// Sets the number of queue pairs in use. VIRTIO 1.3 §5.1.6.5.5
    pub fn set_pairs(&mut self, pairs: u16) -> Result<(), ControlError> {
        self.command(&MQ_PAIRS_SET, [&pairs.to_le_bytes()[..]])
    }

    /// Sets the receive offloads, as feature bits. VIRTIO 1.3 §5.1.6.5.6
    pub fn set_guest_offloads(&mut self, features: u64) -> Result<(), ControlError> {
        self.command(&GUEST_OFFLOADS_SET, [&features.to_le_bytes()[..]])
    }
}
