//! What the handles of one connection share.

use crate::inbox::{Inbox, Pump, Source};
use crate::interrupt::Context;
use crate::state::{MOST_CHANNELS, Phase, State, Then};
use crate::{HostMessage, Version};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};
use core::time::Duration;
use hyperv_bindings::tlfs::HvMessageType;
use hyperv_bindings::vmbus::{VMBUS_SINT, VmbusChannelMessage, VmbusMessageHeader, VmbusMessageType};
use paravirt_device::Fault;
use paravirt_hyperv::{HvStatus, Hypervisor, OpenError, Synic};
use paravirt_platform::{
    AllocError, DmaRegion, InterruptCell, PAGE_SIZE, PageArc, PageTable, Platform, ProcessorId, Vector,
};
use spin::Mutex;
use zerocopy::IntoBytes;

/// Event flags, and with them channels.
const CELLS: usize = 2048;
/// How long a message may be refused for want of buffers.
const POST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a message is tried whose connection the host says it does not know: some hosts say so when they throttle.
const UNKNOWN_TIMEOUT: Duration = Duration::from_millis(100);
/// Messages that are taken from the slot, or acted on, at one go.
const AT_ONE_GO: u32 = 256;

pub(crate) struct Core<P: Platform> {
    pub synic: Synic<P>,
    /// The processor that has the messages: that of index 0, as hosts of old know no other.
    pub contact: ProcessorId,
    pub state: Mutex<State<P>>,
    post_page: Mutex<DmaRegion<P>>,
    pub interrupt_page: Option<DmaRegion<P>>,
    /// The host may write the interrupt page.
    is_page_known: AtomicBool,
    /// The largest number of a channel that was open.
    last_channel: AtomicU32,
    cells: PageTable<P, InterruptCell>,
    pub bus_cell: InterruptCell,
    /// Of whoever looks after sockets.
    pub socket_cell: InterruptCell,
    /// For each place in the table of channels, how many of its channels have gone.
    epochs: PageTable<P, AtomicU32>,
    inbox: Inbox<P>,
    pump: Pump,
    is_acting: AtomicBool,
    contexts: PageTable<P, Context<P>>,
    vectors: Mutex<PageTable<P, Option<Vector>>>,
    version: AtomicU32,
    /// Changes whenever the host has let go of everything.
    generation: AtomicU32,
    /// The host sent a message that is none.
    is_faulted: AtomicBool,
}

impl<P: Platform> Core<P> {
    /// Switches the SynIC on, with handlers on every processor.
    pub fn open(hypervisor: &PageArc<P, Hypervisor<P>>) -> Result<PageArc<P, Self>, OpenError> {
        let platform = hypervisor.platform();
        let synic = Synic::open(hypervisor)?;
        let contact = synic.first().ok_or(OpenError::Processor)?;
        let count = synic.count() as usize;
        let interrupt_page = DmaRegion::alloc(platform, PAGE_SIZE)?;
        let core = PageArc::new(
            platform,
            Self {
                synic,
                contact,
                state: Mutex::new(State::new(platform)?),
                post_page: Mutex::new(DmaRegion::alloc(platform, PAGE_SIZE)?),
                interrupt_page: Some(interrupt_page),
                is_page_known: AtomicBool::new(false),
                last_channel: AtomicU32::new(0),
                cells: PageTable::new(platform, CELLS, |_| InterruptCell::new())?,
                bus_cell: InterruptCell::new(),
                socket_cell: InterruptCell::new(),
                epochs: PageTable::new(platform, MOST_CHANNELS, |_| AtomicU32::new(0))?,
                inbox: Inbox::new(platform)?,
                pump: Pump::new(),
                is_acting: AtomicBool::new(false),
                contexts: PageTable::new(platform, count, |index| Context::new(ProcessorId(index as u32)))?,
                vectors: Mutex::new(PageTable::new(platform, count, |_| None)?),
                version: AtomicU32::new(0),
                generation: AtomicU32::new(0),
                is_faulted: AtomicBool::new(false),
            },
        )?;
        for (index, context) in core.contexts.iter().enumerate() {
            let handler = context.handler(core.as_ptr());
            // SAFETY: the context is a part of the core, whose drop unbinds first.
            let vector = unsafe { core.synic.bind(ProcessorId(index as u32), VMBUS_SINT, handler) }?;
            if let Some(slot) = core.vectors.lock().get_mut(index) {
                *slot = vector;
            }
        }
        Ok(core)
    }

    pub fn hypervisor(&self) -> &PageArc<P, Hypervisor<P>> {
        self.synic.hypervisor()
    }

    pub fn platform(&self) -> &P {
        self.hypervisor().platform()
    }

    pub fn version(&self) -> Version {
        Version(self.version.load(Ordering::Relaxed))
    }

    pub fn set_version(&self, version: Version) {
        self.version.store(version.0, Ordering::Relaxed);
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
        self.cells.get(channel as usize)
    }

    /// What [`is_current`](Self::is_current) is asked with, for the channel that is in `place` now.
    pub fn epoch(&self, place: usize) -> u32 {
        self.epochs.get(place).map_or(0, |epoch| epoch.load(Ordering::Acquire))
    }

    /// Whether the channel that was in `place` at `epoch` still is there. One load.
    #[inline(always)]
    pub fn is_current(&self, place: usize, epoch: u32) -> bool {
        self.epochs.get(place).is_some_and(|now| now.load(Ordering::Relaxed) == epoch)
    }

    /// The channel in `place` is gone.
    fn end(&self, place: usize) {
        if let Some(epoch) = self.epochs.get(place) {
            epoch.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// The fault of the connection.
    pub fn fault(&self) -> Option<Fault> {
        self.is_faulted.load(Ordering::Relaxed).then_some(Fault::Protocol)
    }

    /// Moves messages from the slot to the inbox, on the processor that has them; whether the inbox is to be drained.
    /// Callable from an interrupt that comes in the middle of it.
    pub fn pump(&self) -> bool {
        self.pump.run(AT_ONE_GO, self)
    }

    /// Whether there is a message in the slot. One load.
    #[inline]
    pub fn has_message(&self) -> bool {
        self.synic.has_message(self.contact, VMBUS_SINT)
    }

    /// Whether there is a message that nobody has acted on.
    #[inline]
    pub fn has_news(&self) -> bool {
        !self.inbox.is_empty() || self.has_message()
    }

    /// Acts on the messages that have come in. Not from an interrupt.
    pub fn collect(&self) {
        let mut left = AT_ONE_GO;
        while left > 0 {
            // One at a time, so that messages are acted on in their order; who comes second leaves it to the first, which
            // looks again before it goes.
            if self.is_acting.swap(true, Ordering::AcqRel) {
                return;
            }
            while left > 0
                && let Some((bytes, len)) = self.inbox.take()
            {
                self.act(bytes.get(..len).unwrap_or(&bytes));
                left = left.saturating_sub(1);
            }
            self.is_acting.store(false, Ordering::Release);
            fence(Ordering::SeqCst);
            if self.inbox.is_empty() && !self.fetch() {
                return;
            }
            left = left.saturating_sub(1);
        }
    }

    /// Sees to it that what is in the slot gets into the queue; whether there is any use in looking there again.
    fn fetch(&self) -> bool {
        if !self.has_message() {
            return false;
        }
        // Its interrupt fetches it, but for one that was left where it is, or where interrupts may be off: here.
        let is_here = self.platform().processors().current() == self.contact;
        let mut came = false;
        if is_here || self.pump.take_stall() || !self.has_vector(self.contact) {
            let _ = self.platform().processors().run_on(self.contact, &mut || came = self.pump());
        }
        came
    }

    fn act(&self, bytes: &[u8]) {
        let message = match HostMessage::parse(bytes) {
            Ok(message) => message,
            Err(malformed) => {
                // What came before the answer to the first contact is not of this connection.
                if self.state.lock().phase == Phase::Connected {
                    log::error!("vmbus: a message of type {} is too short", malformed.0.0);
                    self.is_faulted.store(true, Ordering::Release);
                    self.wake_all();
                }
                return;
            }
        };
        let then = self.state.lock().accept(message);
        match then {
            Then::Nothing => {}
            Then::Wake => self.wake_bus(),
            Then::Unloaded => self.let_go(),
            Then::Gone(place, channel) => {
                self.end(place);
                if let Some(cell) = self.cell(channel) {
                    cell.wake();
                }
                self.wake_bus();
                self.release_if_gone(place);
            }
        }
    }

    /// Waits until `look` finds something in the state; `None` where it did not in time.
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

    /// Sends a message by the connection's port.
    pub fn post(&self, message: &[u8]) -> Result<(), Fault> {
        let connection = self.state.lock().connection_id;
        self.post_to(connection, message, UNKNOWN_TIMEOUT).map_err(|status| {
            log::error!("vmbus: a message was refused with status {:#x}", status.0);
            Fault::Timeout
        })
    }

    /// Sends a message that is the number of a channel.
    pub fn post_channel(&self, message_type: VmbusMessageType, channel: u32) -> Result<(), Fault> {
        let header = VmbusMessageHeader { message_type, reserved: 0 };
        self.post(VmbusChannelMessage { header, channel_id: channel }.as_bytes())
    }

    /// Sends a message by port `connection`, again and again while the host has no buffers for it, and for `unknown` where it
    /// says that it does not know the port.
    pub fn post_to(&self, connection: u32, message: &[u8], unknown: Duration) -> Result<(), HvStatus> {
        let start = self.platform().now();
        let mut pause = 1u32;
        loop {
            let sent = {
                let page = self.post_page.lock();
                self.hypervisor().post_message(&page, connection, message)
            };
            let Err(status) = sent else { return Ok(()) };
            let at_most = match status {
                HvStatus::INVALID_CONNECTION_ID => unknown,
                _ if Hypervisor::<P>::wants_another_try(status) => POST_TIMEOUT,
                _ => Duration::ZERO,
            };
            if self.platform().now().since(start) >= at_most {
                return Err(status);
            }
            // The host may be waiting for its slot to be freed.
            self.collect();
            for _ in 0..pause {
                self.platform().relax();
            }
            pause = pause.saturating_mul(2).min(1024);
        }
    }

    /// Wakes who looks for what comes and goes on the bus.
    pub fn wake_bus(&self) {
        self.bus_cell.wake();
        self.socket_cell.wake();
    }

    /// Wakes everybody who waits for a channel.
    pub fn wake_all(&self) {
        let last = self.last_channel.load(Ordering::Relaxed) as usize;
        self.cells.iter().take(last.saturating_add(1)).for_each(InterruptCell::wake);
    }

    /// Takes note that somebody waits for `channel`.
    pub fn has_driver(&self, channel: u32) {
        self.last_channel.fetch_max(channel, Ordering::Relaxed);
    }

    /// Puts all channels out of service: a new connection is about to be made, or the old one has ended.
    pub fn end_all(&self, state: &mut State<P>) {
        state.clear();
        (0..MOST_CHANNELS).for_each(|place| self.end(place));
        self.wake_all();
    }

    /// Takes note that the host has let go of everything: it has said so, or it has answered a new contact.
    pub fn let_go(&self) {
        let mut state = self.state.lock();
        self.end_all(&mut state);
        if state.phase == Phase::Unloading {
            state.phase = Phase::Unloaded;
        }
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.is_page_known.store(false, Ordering::Release);
        drop(state);
        self.wake_bus();
    }

    /// Takes note whether the host is told of the interrupt page.
    pub fn set_page_known(&self, is_known: bool) {
        self.is_page_known.store(is_known, Ordering::Release);
    }

    /// A new connection begins without the faults of the last.
    pub fn forget_fault(&self) {
        self.is_faulted.store(false, Ordering::Release);
    }

    /// Tells the host that a channel that it took back is not used any more, once nothing of it is.
    pub fn release_if_gone(&self, place: usize) {
        let released = {
            let mut state = self.state.lock();
            let is_free =
                |entry: &crate::state::Entry| entry.is_rescinded && !entry.is_taken && entry.gpadls == 0;
            match state.channels.get_mut(place) {
                Some(slot) if slot.as_ref().is_some_and(|entry| is_free(entry) && entry.is_end_announced) => {
                    slot.take().map(|entry| entry.offer.channel)
                }
                _ => None,
            }
        };
        if let Some(channel) = released {
            let _ = self.post_channel(VmbusMessageType::REL_ID_RELEASED, channel);
        }
    }
}

impl<P: Platform> Drop for Core<P> {
    fn drop(&mut self) {
        self.unload_if_connected();
        let vectors = self.vectors.get_mut();
        for (index, vector) in vectors.iter_mut().enumerate() {
            self.synic.unbind(ProcessorId(index as u32), VMBUS_SINT, vector.take());
        }
        if self.is_page_known.load(Ordering::Acquire) {
            log::error!("vmbus: the host does not let go of the interrupt page: it is leaked");
            self.interrupt_page.take().into_iter().for_each(DmaRegion::leak);
        }
    }
}

impl From<AllocError> for crate::ConnectError {
    fn from(_: AllocError) -> Self {
        Self::Hypervisor(OpenError::Memory)
    }
}

impl<P: Platform> Source for Core<P> {
    fn has_message(&self) -> bool {
        self.has_message()
    }

    fn is_full(&self) -> bool {
        self.inbox.is_full()
    }

    fn transfer(&self) -> bool {
        let Some(message) = self.synic.take_message(self.contact, VMBUS_SINT) else { return false };
        if message.message_type == HvMessageType::CHANNEL {
            self.inbox.put(&message);
        }
        true
    }
}
