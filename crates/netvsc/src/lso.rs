//! LSO bounce slots: memory for frames that no section of the send buffer holds.

use crate::encode::{ALIGNMENT, HEADROOM, Header};
use crate::transaction::{self, Source};
use crate::transmit_limits::nvsp_packet;
use hyperv_bindings::netvsp::{NVSP_NO_SECTION, NvspChannelType};
use paravirt_device::{Fault, Rejected};
use paravirt_platform::{AllocError, Direction, DmaBuffer, DmaSlice, PageTable, Platform};
use paravirt_vmbus::Channel;
use zerocopy::IntoBytes;

struct Slot<P: Platform> {
    generation: u32,
    /// In flight from the packet that names it to its completion. Dropped in flight, it leaks.
    memory: DmaSlice<P>,
}

/// The bounce slots of a queue. Each is one frame long, behind [`HEADROOM`] bytes for its header.
pub(crate) struct LsoSlots<P: Platform> {
    slots: PageTable<P, Slot<P>>,
}

impl<P: Platform> LsoSlots<P> {
    /// `count` slots for frames of up to `len` bytes.
    pub fn new(platform: &P, count: usize, len: usize) -> Result<Self, AllocError> {
        let len = len.saturating_add(HEADROOM + ALIGNMENT);
        let slots = PageTable::try_new(platform, count, |_| {
            Ok::<_, AllocError>(Slot { generation: 1, memory: DmaSlice::alloc(platform, len)? })
        })?;
        Ok(Self { slots })
    }

    /// A slot that is not in flight and holds a frame of `len` bytes.
    pub fn find(&self, len: usize) -> Option<u16> {
        let room = |slot: &Slot<P>| slot.memory.capacity().saturating_sub(HEADROOM + ALIGNMENT);
        let found = self.slots.iter().position(|slot| !slot.memory.is_in_flight() && len <= room(slot));
        found.and_then(|index| u16::try_from(index).ok())
    }

    /// The bytes for a frame in slot `index`; empty while it is in flight.
    pub fn frame(&mut self, index: u16) -> &mut [u8] {
        let slot = self.slots.get_mut(usize::from(index));
        slot.and_then(|slot| slot.memory.bytes_mut().get_mut(HEADROOM..)).unwrap_or_default()
    }

    /// Sends the first `len` bytes of the frame in slot `index`, with the header that `make_header` makes of them.
    pub fn send(
        &mut self,
        index: u16,
        len: usize,
        make_header: impl FnOnce(&mut [u8]) -> Result<Header, Rejected>,
        channel: &mut Channel<P>,
    ) -> Result<(), Rejected> {
        let Slot { generation, memory } = self.slots.get_mut(usize::from(index)).ok_or(Rejected::Invalid)?;
        let (head, frame) =
            memory.bytes_mut().split_first_chunk_mut::<HEADROOM>().ok_or(Rejected::Invalid)?;
        let header = make_header(frame.get_mut(..len).ok_or(Rejected::Invalid)?)?;
        *head = *header.padded();
        memory.set_len(header.message_len());
        let sent = match memory.submit(Direction::ToDevice) {
            Ok(segments) => {
                let id = transaction::pack(Source::Lso(index), *generation);
                let message = nvsp_packet(NvspChannelType::DATA, NVSP_NO_SECTION, 0);
                channel.send_gpa_direct(id, segments, &[message.as_bytes()]).map_err(Rejected::from)
            }
            Err(error) => Err(Rejected::Buffer(error)),
        };
        if sent.is_err() {
            if memory.is_in_flight() {
                // SAFETY: it was submitted above, and the packet that would have told the host of it was not written.
                unsafe { memory.reclaim() };
            }
            memory.set_len(memory.capacity());
        }
        sent
    }

    /// The host has completed the packet of slot `index`.
    pub fn complete(&mut self, index: u16, generation: u32) -> Result<(), Fault> {
        let slot = self
            .slots
            .get_mut(usize::from(index))
            .filter(|slot| slot.memory.is_in_flight() && slot.generation == generation)
            .ok_or(Fault::Protocol)?;
        slot.generation = slot.generation.wrapping_add(1);
        // SAFETY: `send` submitted it for the packet with this generation, and the host has completed that packet.
        unsafe { slot.memory.reclaim() };
        slot.memory.set_len(slot.memory.capacity());
        Ok(())
    }

    /// Reclaims the slots in flight, after the channels have been closed and the host confirmed that.
    pub fn reclaim_all(&mut self) {
        for slot in self.slots.iter_mut().filter(|slot| slot.memory.is_in_flight()) {
            // SAFETY: the host has closed the channel by which it was told of the memory: see `TxState::end`.
            unsafe { slot.memory.reclaim() };
        }
    }
}
