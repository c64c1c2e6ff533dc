//! The interrupt half: one handler for each virtual processor. It takes no lock, allocates nothing, and only wakes.

use crate::Version;
use crate::inbox::{Inbox, Pump, Source};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use hyperv_bindings::tlfs::HvMessageType;
use hyperv_bindings::vmbus::VMBUS_SINT;
use paravirt_device::Arm;
use paravirt_hyperv::{Hypervisor, OpenError, Synic};
use paravirt_platform::{
    DmaRegion, Handled, InterruptCell, PAGE_SIZE, PageArc, PageTable, Platform, ProcessorId, RawHandler,
    Vector,
};

/// Event flags of a SynIC source, and with them channels. TLFS §11.8
const MAX_EVENT_FLAGS: usize = 2048;
/// Messages taken from the slot in one call.
const MAX_MESSAGES: u32 = 256;
/// Words of 64 bits in the half of the interrupt page that the host writes.
const RECEIVE_WORDS: usize = 256;
/// Bytes from the beginning of the interrupt page to the half that the guest writes.
const SEND_OFFSET: usize = 2048;

/// What the interrupt handlers access, in an allocation of its own.
///
/// Handlers form `&InterruptState` at any time while they are bound. The owner, `VmbusShared`, holds it behind a [`PageArc`],
/// so that no `&mut` to the owner covers it, and releases it only after it has unbound every handler.
pub(crate) struct InterruptState<P: Platform> {
    pub synic: Synic<P>,
    /// The processor that messages come to: virtual processor 0, the only one that hosts before VMBus 4.0 use.
    pub contact: ProcessorId,
    interrupt_page: Option<DmaRegion<P>>,
    /// The host was told of the interrupt page and may write it.
    is_page_known: AtomicBool,
    /// The largest number of a channel that was open.
    last_channel: AtomicU32,
    cells: PageTable<P, InterruptCell>,
    pub bus_cell: InterruptCell,
    /// Wakes the driver of sockets.
    pub socket_cell: InterruptCell,
    pub inbox: Inbox<P>,
    /// Whether every processor has a handler; otherwise the drivers poll.
    is_bound: AtomicBool,
    pump: Pump,
    version: AtomicU32,
    contexts: PageTable<P, HandlerContext<P>>,
}

/// What the handler of one processor is called with.
struct HandlerContext<P: Platform> {
    state: AtomicPtr<InterruptState<P>>,
    processor: ProcessorId,
}

/// # Safety
///
/// `data` points to a `HandlerContext` that is alive, and so is the state that it points to.
unsafe fn handle<P: Platform>(data: NonNull<()>) -> Handled {
    // SAFETY: the caller promises that `data` points to a live `HandlerContext`.
    let context = unsafe { data.cast::<HandlerContext<P>>().as_ref() };
    // SAFETY: `bind` stored the pointer before the handler was bound; the caller promises that the state is alive, and only
    // shared references to it exist until `unbind` has returned.
    if let Some(state) = unsafe { context.state.load(Ordering::Acquire).as_ref() } {
        state.interrupt(context.processor);
    }
    Handled::Yes
}

impl<P: Platform> InterruptState<P> {
    /// Switches the SynIC on. No handler is bound yet.
    pub fn open(hypervisor: &PageArc<P, Hypervisor<P>>) -> Result<PageArc<P, Self>, OpenError> {
        let platform = hypervisor.platform();
        let synic = Synic::open(hypervisor)?;
        let contact = synic.first().ok_or(OpenError::Processor)?;
        let count = synic.count() as usize;
        let state = Self {
            synic,
            contact,
            interrupt_page: Some(DmaRegion::alloc(platform, PAGE_SIZE)?),
            is_page_known: AtomicBool::new(false),
            last_channel: AtomicU32::new(0),
            cells: PageTable::new(platform, MAX_EVENT_FLAGS, |_| InterruptCell::new())?,
            bus_cell: InterruptCell::new(),
            socket_cell: InterruptCell::new(),
            inbox: Inbox::new(platform)?,
            is_bound: AtomicBool::new(false),
            pump: Pump::new(),
            version: AtomicU32::new(0),
            contexts: PageTable::new(platform, count, |index| HandlerContext {
                state: AtomicPtr::new(core::ptr::null_mut()),
                processor: ProcessorId(index as u32),
            })?,
        };
        Ok(PageArc::new(platform, state)?)
    }

    /// Binds a handler on every processor, and says which has a vector; the others are polled.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; what was bound until then is in `vectors`.
    ///
    /// # Safety
    ///
    /// The caller calls [`unbind`](Self::unbind) with `vectors` before it releases `this`.
    pub unsafe fn bind(
        this: &PageArc<P, Self>,
        vectors: &mut PageTable<P, Option<Vector>>,
    ) -> Result<(), OpenError> {
        for (context, slot) in this.contexts.iter().zip(vectors.iter_mut()) {
            context.state.store(this.as_ptr().as_ptr(), Ordering::Release);
            let handler = RawHandler::new(NonNull::from(context), handle::<P>);
            // SAFETY: the context is a part of the state in `this`, which the caller keeps until it has called `unbind`.
            *slot = unsafe { this.synic.bind(context.processor, VMBUS_SINT, handler) }?;
        }
        this.is_bound.store(vectors.iter().all(Option::is_some), Ordering::Release);
        Ok(())
    }

    /// Unbinds every handler; none runs when this returns.
    pub fn unbind(&self, vectors: &mut PageTable<P, Option<Vector>>) {
        for (index, vector) in vectors.iter_mut().enumerate() {
            self.synic.unbind(ProcessorId(index as u32), VMBUS_SINT, vector.take());
        }
    }

    /// Returns what `arm` returns when there is nothing to do: whether interrupts wake the tasks.
    pub fn armed(&self) -> Arm {
        if self.is_bound.load(Ordering::Acquire) { Arm::Armed } else { Arm::Unsignalled }
    }

    pub fn version(&self) -> Version {
        Version(self.version.load(Ordering::Relaxed))
    }

    pub fn set_version(&self, version: Version) {
        self.version.store(version.0, Ordering::Relaxed);
    }

    /// The cell of a channel, by its event flag.
    pub fn cell(&self, channel: u32) -> Option<&InterruptCell> {
        self.cells.get(channel as usize)
    }

    /// The address of the interrupt page, which only hosts before VMBus 2.4 use.
    pub fn page_address(&self) -> u64 {
        self.interrupt_page.as_ref().map_or(0, |page| page.bus().0)
    }

    /// Records whether the host was told of the interrupt page: it is then leaked rather than freed.
    pub fn set_page_known(&self, is_known: bool) {
        self.is_page_known.store(is_known, Ordering::Release);
    }

    /// Records that `channel` has a driver that [`wake_all`](Self::wake_all) wakes.
    pub fn has_driver(&self, channel: u32) {
        self.last_channel.fetch_max(channel, Ordering::Relaxed);
    }

    /// Wakes the drivers of all channels.
    pub fn wake_all(&self) {
        let last = self.last_channel.load(Ordering::Relaxed) as usize;
        self.cells.iter().take(last.saturating_add(1)).for_each(InterruptCell::wake);
    }

    /// Wakes the tasks that wait for offers, rescinds and sockets.
    pub fn wake_bus(&self) {
        self.bus_cell.wake();
        self.socket_cell.wake();
    }

    /// Handles an interrupt on `processor`: event flags, and messages on the processor that they come to.
    fn interrupt(&self, processor: ProcessorId) {
        self.take_events(processor);
        if processor == self.contact && self.pump() {
            // One of them may rescind a channel.
            self.wake_all();
            self.wake_bus();
        }
    }

    /// Wakes the channels whose flags are set on `processor`. TLFS §11.8
    fn take_events(&self, processor: ProcessorId) {
        let has_flags = self.version().has_event_flags();
        let mut scan = false;
        self.synic.take_events(processor, VMBUS_SINT, |flag| {
            if flag == 0 && !has_flags {
                scan = true;
            } else {
                self.wake(flag);
            }
        });
        let page = self.interrupt_page.as_ref().filter(|_| scan);
        if let Some(words) = page.and_then(|page| page.shared().at::<[AtomicU64; RECEIVE_WORDS]>(0)) {
            for (place, word) in (0u32..).zip(words) {
                let mut set = word.swap(0, Ordering::AcqRel);
                while set != 0 {
                    self.wake(place.wrapping_mul(64).wrapping_add(set.trailing_zeros()));
                    set &= set.wrapping_sub(1);
                }
            }
        }
    }

    fn wake(&self, channel: u32) {
        if let Some(cell) = self.cell(channel) {
            cell.wake();
        }
    }

    /// Sets the bit of a channel in the half of the interrupt page that the host reads.
    pub fn set_send_bit(&self, channel: u32) {
        let offset = SEND_OFFSET.saturating_add(((channel >> 6) << 3) as usize);
        let page = self.interrupt_page.as_ref();
        if let Some(word) = page.and_then(|page| page.shared().at::<AtomicU64>(offset)) {
            word.fetch_or(1 << (channel % 64), Ordering::SeqCst);
        }
    }

    /// Whether there is a message in the slot. One load.
    #[inline]
    pub fn has_message(&self) -> bool {
        self.synic.has_message(self.contact, VMBUS_SINT)
    }

    /// Takes the mark that a message stayed in its slot without an interrupt to announce it.
    pub fn take_stalled(&self) -> bool {
        self.pump.take_stall()
    }

    /// Moves messages from the slot to the inbox, on the processor that they come to; whether the inbox is to be drained. May be
    /// called from an interrupt that interrupts another call.
    pub fn pump(&self) -> bool {
        self.pump.run(MAX_MESSAGES, self)
    }
}

impl<P: Platform> Source for InterruptState<P> {
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

impl<P: Platform> Drop for InterruptState<P> {
    /// Runs after the handlers were unbound: no other reference is left.
    fn drop(&mut self) {
        if *self.is_page_known.get_mut() {
            log::error!("vmbus: the host did not release the interrupt page: leaked");
            self.interrupt_page.take().into_iter().for_each(DmaRegion::leak);
        }
    }
}
