//! Memory that the host was told of: a GPA descriptor list (GPADL).

use crate::ChannelError;
use crate::connect::header;
use crate::shared::VmbusShared;
use crate::state::GpadlPhase;
use core::fmt;
use core::time::Duration;
use hyperv_bindings::vmbus::{
    VMBUS_GPADL_BODY_PFNS, VMBUS_GPADL_HEADER_PFNS, VMBUS_GPADL_PAGES, VmbusGpadlBody, VmbusGpadlHeader,
    VmbusGpadlTeardown, VmbusMessageType,
};
use paravirt_device::Fault;
use paravirt_platform::{DmaRegion, PAGE_SIZE, PageArc, Platform, SharedMemory};
use zerocopy::IntoBytes;

/// How long the host may take to answer for a channel that it has rescinded.
const GONE_TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes of the longest message.
const MESSAGE: usize = 240;

/// Memory that the host may read and write until it is torn down.
///
/// Dropped, it is: the drop waits for the host to confirm, [`Timeouts::answer`](crate::Timeouts::answer) at most, and leaks the memory
/// where it does not. A
/// channel is closed before its GPADLs are dropped.
pub struct Gpadl<P: Platform> {
    shared: PageArc<P, VmbusShared<P>>,
    region: Option<DmaRegion<P>>,
    id: u32,
    channel: u32,
    place: usize,
    generation: u32,
    epoch: u32,
    is_down: bool,
}

impl<P: Platform> fmt::Debug for Gpadl<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let len = self.region.as_ref().map_or(0, DmaRegion::len);
        f.debug_struct("Gpadl").field("id", &self.id).field("len", &len).finish_non_exhaustive()
    }
}

/// A message that is being built.
struct Message {
    bytes: [u8; MESSAGE],
    len: usize,
}

impl Message {
    fn new(head: &[u8]) -> Self {
        let mut message = Self { bytes: [0; MESSAGE], len: 0 };
        message.push(head);
        message
    }

    fn push(&mut self, bytes: &[u8]) {
        let room = self.bytes.get_mut(self.len..).unwrap_or_default();
        room.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        self.len = self.len.saturating_add(bytes.len()).min(MESSAGE);
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl<P: Platform> Gpadl<P> {
    /// Tells the host of `region`, for the channel in `place`. On error the region is freed, or leaked where the host may
    /// know of it.
    pub(crate) fn new(
        shared: &PageArc<P, VmbusShared<P>>,
        place: usize,
        epoch: u32,
        region: DmaRegion<P>,
    ) -> Result<Self, ChannelError> {
        let pages = region.len() / PAGE_SIZE;
        if pages > VMBUS_GPADL_PAGES as usize {
            return Err(ChannelError::Size);
        }
        let (id, channel, generation) = {
            let mut state = shared.state.lock();
            if !shared.is_current(place, epoch) {
                return Err(ChannelError::Gone);
            }
            let (id, channel) = state.add_gpadl(place).ok_or(ChannelError::Memory)?;
            (id, channel, shared.generation())
        };
        // From here on, the drop frees the memory only once the host has released it.
        let this = Self {
            shared: shared.clone(),
            region: Some(region),
            id,
            channel,
            place,
            generation,
            epoch,
            is_down: false,
        };
        this.announce()?;
        this.wait_for_creation()?;
        Ok(this)
    }

    /// Posts the messages that describe the region. A frame of its own, since the wait after it is deep in the stack without these messages.
    #[inline(never)]
    fn announce(&self) -> Result<(), ChannelError> {
        let Some(region) = &self.region else { return Err(ChannelError::Gone) };
        let pages = region.len() / PAGE_SIZE;
        let mut frames = ((region.bus().0 >> 12)..).take(pages);
        let range_len = pages.saturating_mul(8).saturating_add(8);
        let (Ok(range_buffer_len), Ok(byte_count)) = (u16::try_from(range_len), u32::try_from(region.len()))
        else {
            return Err(ChannelError::Size);
        };
        let head = VmbusGpadlHeader {
            header: header(VmbusMessageType::GPADL_HEADER),
            channel_id: self.channel,
            gpadl_id: self.id,
            range_buffer_len,
            range_count: 1,
            byte_count,
            byte_offset: 0,
        };
        let mut message = Message::new(head.as_bytes());
        frames
            .by_ref()
            .take(VMBUS_GPADL_HEADER_PFNS as usize)
            .for_each(|frame| message.push(&frame.to_le_bytes()));
        self.shared.post(message.bytes())?;
        let mut frames = frames.peekable();
        for number in 1.. {
            if frames.peek().is_none() {
                break;
            }
            let body = VmbusGpadlBody {
                header: header(VmbusMessageType::GPADL_BODY),
                message_number: number,
                gpadl_id: self.id,
            };
            let mut message = Message::new(body.as_bytes());
            for frame in frames.by_ref().take(VMBUS_GPADL_BODY_PFNS as usize) {
                message.push(&frame.to_le_bytes());
            }
            self.shared.post(message.bytes())?;
        }
        Ok(())
    }

    /// Waits until the host has created the GPADL.
    fn wait_for_creation(&self) -> Result<(), ChannelError> {
        let mut gone_since = None;
        let answer = self.shared.wait(self.shared.timeouts.answer, |state| {
            if !self.is_current() {
                return Some(Err(ChannelError::Gone));
            }
            if let GpadlPhase::Created(status) = state.gpadl(self.id)?.phase {
                return Some(Ok(status));
            }
            if self.shared.is_current(self.place, self.epoch) {
                return None;
            }
            // The host may still answer, and then it can be torn down.
            let now = self.shared.platform().now();
            let since = *gone_since.get_or_insert(now);
            (now.since(since) >= GONE_TIMEOUT).then_some(Err(ChannelError::Gone))
        });
        if !self.shared.is_current(self.place, self.epoch) {
            return Err(ChannelError::Gone);
        }
        match answer {
            Some(Ok(0)) => Ok(()),
            Some(Ok(status)) => Err(ChannelError::Refused(status)),
            Some(Err(gone)) => Err(gone),
            None => Err(ChannelError::Faulted(Fault::Timeout)),
        }
    }

    /// The id of the GPADL on this connection.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The connection that it was created on.
    pub(crate) fn generation(&self) -> u32 {
        self.generation
    }

    /// Whether that connection has not ended.
    pub(crate) fn is_current(&self) -> bool {
        self.shared.generation() == self.generation
    }

    /// The memory; `None` once it was leaked.
    pub fn region(&self) -> Option<&DmaRegion<P>> {
        self.region.as_ref()
    }

    /// The memory, which the host may write at any time.
    pub fn shared(&self) -> Option<&SharedMemory> {
        self.region.as_ref().map(DmaRegion::shared)
    }

    /// Tears it down ahead of its drop, while the channel is open, as network cards before VMBus 4.0 want it. The memory stays with the
    /// caller until the drop. Blocks until the host confirms, [`Timeouts::answer`](crate::Timeouts::answer) at most; returns whether it
    /// has.
    pub fn revoke(&self) -> bool {
        self.tear_down() && {
            if let Some(gpadl) = self.shared.state.lock().gpadl(self.id) {
                gpadl.phase = GpadlPhase::TornDown;
            }
            true
        }
    }

    /// Tears it down, and blocks until the host confirms; whether it has released the memory.
    fn tear_down(&self) -> bool {
        if !self.is_current() {
            return true;
        }
        let phase = self.shared.state.lock().gpadl(self.id).map(|gpadl| {
            let before = gpadl.phase;
            gpadl.phase = GpadlPhase::TearingDown;
            before
        });
        match phase {
            Some(GpadlPhase::Created(0)) => {}
            // The host does not have a GPADL that it refused.
            Some(GpadlPhase::Created(_)) => return true,
            // By `revoke`.
            Some(GpadlPhase::TornDown) => return true,
            // It may have one whose creation was not answered, and does not answer its teardown.
            _ => return false,
        }
        let message = VmbusGpadlTeardown {
            header: header(VmbusMessageType::GPADL_TEARDOWN),
            channel_id: self.channel,
            gpadl_id: self.id,
        };
        let is_sent = self.shared.post(message.as_bytes()).is_ok();
        let confirmed = || {
            self.shared.wait(self.shared.timeouts.answer, |state| match state.gpadl(self.id) {
                Some(gpadl) => (gpadl.phase == GpadlPhase::TornDown).then_some(()),
                // The connection has ended in between.
                None => Some(()),
            })
        };
        is_sent && confirmed().is_some()
    }
}

impl<P: Platform> Gpadl<P> {
    /// Leaks the memory: the host may access it until the connection ends.
    pub(crate) fn leak(mut self) {
        self.leak_region();
    }

    fn leak_region(&mut self) {
        if let Some(region) = self.region.take() {
            log::error!("vmbus: GPADL {:#x} was not released by the host: its memory is leaked", self.id);
            region.leak();
        }
    }
}

impl<P: Platform> Gpadl<P> {
    /// Tears it down; whether the host has released it. Where not, the memory is leaked.
    pub(crate) fn free(mut self) -> bool {
        self.take_down()
    }

    fn take_down(&mut self) -> bool {
        if core::mem::replace(&mut self.is_down, true) {
            return true;
        }
        // Where the memory was leaked there is only the entry to remove.
        let is_released = self.region.is_some() && self.tear_down();
        let is_ours = {
            let mut state = self.shared.state.lock();
            let is_ours = self.is_current();
            if is_ours {
                state.remove_gpadl(self.id, self.place);
            }
            is_ours
        };
        if is_ours && !is_released {
            self.leak_region();
        }
        self.region = None;
        if is_ours {
            self.shared.release_if_gone(self.place);
        }
        is_released || !is_ours
    }
}

impl<P: Platform> Drop for Gpadl<P> {
    fn drop(&mut self) {
        self.take_down();
    }
}
