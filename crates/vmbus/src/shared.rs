//! The state of one connection, shared by its handles.

use crate::interrupt::InterruptState;
use crate::state::{MAX_CHANNELS, Phase, State, Then};
use crate::{HostMessage, Timeouts, Version};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use core::time::Duration;
use hyperv_bindings::vmbus::{VmbusChannelMessage, VmbusMessageHeader, VmbusMessageType};
use paravirt_device::Fault;
use paravirt_hyperv::{HvStatus, Hypervisor, OpenError, Synic};
use paravirt_platform::{
    DmaRegion, Instant, InterruptCell, PAGE_SIZE, PageArc, PageTable, Platform, ProcessorId, Vector,
};
use spin::Mutex;
use zerocopy::IntoBytes;

/// The first and the longest pause before a message that the host refused is posted again.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const MAX_PAUSE: Duration = Duration::from_millis(64);
/// Messages that are handled in one call.
const MAX_MESSAGES: u32 = 256;

pub(crate) struct VmbusShared<P: Platform> {
    pub timeouts: Timeouts,
    pub interrupts: PageArc<P, InterruptState<P>>,
    pub state: Mutex<State<P>>,
    post_page: Mutex<DmaRegion<P>>,
    /// For each index of the channel table, how many of its channels have gone.
    epochs: PageTable<P, AtomicU32>,
    is_handling: AtomicBool,
    vectors: Mutex<PageTable<P, Option<Vector>>>,
    /// Counts the connections whose memory the host has released.
    generation: AtomicU32,
    /// The host sent a malformed message.
    is_faulted: AtomicBool,
    /// When the host had been busy for all the time that a message to it was retried, in nanoseconds; 0 if it has taken one since.
    busy_at: AtomicU64,
}

impl<P: Platform> VmbusShared<P> {
    /// Switches the SynIC on, with handlers on every processor.
    pub fn open(
        hypervisor: &PageArc<P, Hypervisor<P>>,
        timeouts: Timeouts,
    ) -> Result<PageArc<P, Self>, OpenError> {
        let platform = hypervisor.platform();
        let interrupts = InterruptState::open(hypervisor)?;
        let count = interrupts.synic.count() as usize;
        let shared = PageArc::new(
            platform,
            Self {
                timeouts,
                interrupts,
                state: Mutex::new(State::new(platform)?),
                post_page: Mutex::new(DmaRegion::alloc(platform, PAGE_SIZE)?),
                epochs: PageTable::new(platform, MAX_CHANNELS, |_| AtomicU32::new(0))?,
                is_handling: AtomicBool::new(false),
                vectors: Mutex::new(PageTable::new(platform, count, |_| None)?),
                generation: AtomicU32::new(0),
                is_faulted: AtomicBool::new(false),
                busy_at: AtomicU64::new(0),
            },
        )?;
        // SAFETY: the drop of `shared` calls `unbind` with the vectors before it releases `interrupts`.
        unsafe { InterruptState::bind(&shared.interrupts, &mut shared.vectors.lock()) }?;
        Ok(shared)
    }

    pub fn synic(&self) -> &Synic<P> {
        &self.interrupts.synic
    }

    /// The processor that messages come to.
    pub fn contact_processor(&self) -> ProcessorId {
        self.interrupts.contact
    }

    pub fn hypervisor(&self) -> &PageArc<P, Hypervisor<P>> {
        self.synic().hypervisor()
    }

    pub fn platform(&self) -> &P {
        self.hypervisor().platform()
    }

    pub fn version(&self) -> Version {
        self.interrupts.version()
    }

    pub fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    /// Whether the handler of `processor` runs by interrupts.
    pub fn has_vector(&self, processor: ProcessorId) -> bool {
        self.vectors.lock().get(processor.0 as usize).is_some_and(Option::is_some)
    }

    /// The cell of a channel, by its event flag.
    pub fn cell(&self, channel: u32) -> Option<&InterruptCell> {
        self.interrupts.cell(channel)
    }

    /// The epoch of the channel at index `place`, for [`is_current`](Self::is_current).
    pub fn epoch(&self, place: usize) -> u32 {
        self.epochs.get(place).map_or(0, |epoch| epoch.load(Ordering::Acquire))
    }

    /// Whether the channel that was at index `place` at `epoch` is still there. One load.
    #[inline(always)]
    pub fn is_current(&self, place: usize, epoch: u32) -> bool {
        self.epochs.get(place).is_some_and(|now| now.load(Ordering::Relaxed) == epoch)
    }

    /// Ends the epoch of the channel at index `place`, which is gone.
    fn end_epoch(&self, place: usize) {
        if let Some(epoch) = self.epochs.get(place) {
            epoch.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// The fault of the connection.
    pub fn fault(&self) -> Option<Fault> {
        self.is_faulted.load(Ordering::Relaxed).then_some(Fault::Protocol)
    }

    /// Whether there is a message that was not handled yet.
    #[inline]
    pub fn has_news(&self) -> bool {
        !self.interrupts.inbox.is_empty() || self.interrupts.has_message()
    }

    /// Handles the messages that have come in. Not to be called from an interrupt.
    pub fn collect(&self) {
        let mut left = MAX_MESSAGES;
        while left > 0 {
            // One at a time, so that messages are handled in order; a second caller leaves them to the first, which looks again
            // before it returns.
            if self.is_handling.swap(true, Ordering::AcqRel) {
                return;
            }
            while left > 0 {
                let Some((bytes, len)) = self.interrupts.inbox.take() else { break };
                self.handle(bytes.get(..len).unwrap_or(&bytes));
                left = left.saturating_sub(1);
            }
            self.is_handling.store(false, Ordering::Release);
            fence(Ordering::SeqCst);
            if self.interrupts.inbox.is_empty() && !self.fetch() {
                return;
            }
            left = left.saturating_sub(1);
        }
    }

    /// Moves the message in the slot to the inbox, where its interrupt does not; whether to look in the inbox again.
    fn fetch(&self) -> bool {
        if !self.interrupts.has_message() {
            return false;
        }
        // Its interrupt does, unless it was left in the slot, or interrupts may be off: on this processor.
        let is_here = self.platform().processors().current() == self.contact_processor();
        let mut came = false;
        if is_here || self.interrupts.take_stalled() || !self.has_vector(self.contact_processor()) {
            let _ = self
                .platform()
                .processors()
                .run_on(self.contact_processor(), &mut || came = self.interrupts.pump());
        }
        came
    }

    #[inline(never)]
    fn handle(&self, bytes: &[u8]) {
        let message = match HostMessage::parse(bytes) {
            Ok(message) => message,
            Err(malformed) => {
                // What came before the answer to INITIATE_CONTACT is of another connection.
                if self.state.lock().phase == Phase::Connected {
                    log::error!(
                        "vmbus: message of type {} is too short: connection out of service",
                        malformed.0.0
                    );
                    self.is_faulted.store(true, Ordering::Release);
                    self.interrupts.wake_all();
                }
                return;
            }
        };
        let then = self.state.lock().accept(message);
        match then {
            Then::Nothing => {}
            Then::Wake => self.interrupts.wake_bus(),
            Then::Unloaded => self.set_released(),
            Then::Gone(place, channel) => {
                self.end_epoch(place);
                if let Some(cell) = self.cell(channel) {
                    cell.wake();
                }
                self.interrupts.wake_bus();
                self.release_if_gone(place);
            }
        }
    }

    /// Waits until `look` finds something in the state; `None` where it does not within `at_most`.
    pub fn wait<R>(&self, at_most: Duration, mut look: impl FnMut(&mut State<P>) -> Option<R>) -> Option<R> {
        let end = self.platform().now().saturating_add(at_most);
        loop {
            self.collect();
            if let Some(found) = look(&mut self.state.lock()) {
                return Some(found);
            }
            if self.platform().now() >= end {
                return None;
            }
            self.platform().relax();
        }
    }

    /// Posts a message to the connection's port, and retries while the host is busy, as long as [`Timeouts::post`]. A host that
    /// throttles a guest reports a lack of buffers or that it does not know the port, which after contact mean the same.
    pub fn post(&self, message: &[u8]) -> Result<(), Fault> {
        self.post_within(self.timeouts.post, message)
    }

    /// As [`post`](Self::post), but retries for `at_most`.
    fn post_within(&self, at_most: Duration, message: &[u8]) -> Result<(), Fault> {
        let connection = self.state.lock().connection_id;
        let is_busy =
            |status| status == HvStatus::INVALID_CONNECTION_ID || Hypervisor::<P>::wants_another_try(status);
        let sent = self.post_while(connection, message, at_most, is_busy);
        match sent.is_err_and(is_busy) {
            // A single try says nothing of how long the host is busy.
            true if at_most == Duration::ZERO => {}
            true => self.busy_at.store(self.platform().now().as_nanos(), Ordering::Relaxed),
            false => self.busy_at.store(0, Ordering::Relaxed),
        }
        sent.map_err(|status| {
            log::error!("vmbus: message refused with status {:#x}", status.0);
            Fault::Timeout
        })
    }

    /// How long to retry one of many messages: a host that has just taken none for all of one wait is not waited for again for each. It
    /// is once as long has passed again.
    fn post_timeout(&self) -> Duration {
        let busy_at = self.busy_at.load(Ordering::Relaxed);
        let until = Instant::from_nanos(busy_at).saturating_add(self.timeouts.post);
        let is_busy = busy_at != 0 && self.platform().now() < until;
        if is_busy { Duration::ZERO } else { self.timeouts.post }
    }

    /// Posts a message whose only field is a channel.
    pub fn post_channel(&self, message_type: VmbusMessageType, channel: u32) -> Result<(), Fault> {
        self.post(channel_message(message_type, channel).as_bytes())
    }

    /// Posts a first message to port `connection`: a port that the host does not know is one that it does not have.
    pub fn post_contact(&self, connection: u32, message: &[u8]) -> Result<(), HvStatus> {
        self.post_while(connection, message, self.timeouts.post, Hypervisor::<P>::wants_another_try)
    }

    /// Posts a message to port `connection`, and retries with growing pauses while `is_busy` of the host's status, up to `at_most`.
    /// TLFS §11.10.1
    fn post_while(
        &self,
        connection: u32,
        message: &[u8],
        at_most: Duration,
        is_busy: impl Fn(HvStatus) -> bool,
    ) -> Result<(), HvStatus> {
        let platform = self.platform();
        let end = platform.now().saturating_add(at_most);
        let mut pause = FIRST_PAUSE;
        loop {
            let sent = {
                let page = self.post_page.lock();
                self.hypervisor().post_message(&page, connection, message)
            };
            let Err(status) = sent else { return Ok(()) };
            if !is_busy(status) || platform.now() >= end {
                return Err(status);
            }
            let until = platform.now().saturating_add(pause);
            while platform.now() < until {
                // The host may be waiting for its slot to be freed.
                self.collect();
                platform.relax();
            }
            pause = pause.saturating_mul(2).min(MAX_PAUSE);
        }
    }

    /// Puts all channels out of service: a new connection is about to be made, or the old one has ended.
    pub fn end_all(&self, state: &mut State<P>) {
        state.clear();
        (0..MAX_CHANNELS).for_each(|place| self.end_epoch(place));
        self.interrupts.wake_all();
    }

    /// Records that the host has released everything: it has said so, or it has answered a new INITIATE_CONTACT.
    pub fn set_released(&self) {
        let mut state = self.state.lock();
        self.end_all(&mut state);
        if state.phase == Phase::Unloading {
            state.phase = Phase::Unloaded;
        }
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.interrupts.set_page_known(false);
        drop(state);
        self.interrupts.wake_bus();
    }

    /// A new connection begins without the fault of the one before.
    pub fn clear_fault(&self) {
        self.is_faulted.store(false, Ordering::Release);
    }

    /// Tells the host that a rescinded channel is no longer used, once nothing of it is.
    pub fn release_if_gone(&self, place: usize) {
        let released = {
            let mut state = self.state.lock();
            let is_free =
                |entry: &crate::state::Entry| entry.is_rescinded && !entry.is_taken && entry.gpadls == 0;
            match state.channels.get_mut(place) {
                Some(slot)
                    if slot.as_ref().is_some_and(|entry| is_free(entry) && entry.is_removal_announced) =>
                {
                    slot.take().map(|entry| entry.offer.channel)
                }
                _ => None,
            }
        };
        if let Some(channel) = released {
            let at_most = self.post_timeout();
            let message = channel_message(VmbusMessageType::REL_ID_RELEASED, channel);
            let _ = self.post_within(at_most, message.as_bytes());
        }
    }

    /// Unbinds every interrupt handler.
    pub fn unbind(&mut self) {
        self.interrupts.unbind(self.vectors.get_mut());
    }
}

fn channel_message(message_type: VmbusMessageType, channel_id: u32) -> VmbusChannelMessage {
    VmbusChannelMessage { header: VmbusMessageHeader { message_type, reserved: 0 }, channel_id }
}
