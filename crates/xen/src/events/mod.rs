//! Event channels: the handlers that look for events, and the tasks that wait for those of a port.
//!
//! For an event the hypervisor notes the port, in a table or in a queue, sets a flag of the processor, and interrupts the processor if the
//! flag was not set before.

mod fifo;
mod port;
mod two_level;

use crate::calls::{CallError, Calls};
use crate::detect::Detected;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::Waker;
use fifo::Fifo;
use paravirt_platform::{
    AllocError, Handled, PageArc, PageTable, Platform, ProcessorId, RawHandler, SharedMemory, Vector,
    WakerCell,
};
pub use port::Port;
use two_level::{MAX_VCPUS, TwoLevel, VCPU_LEN};

pub(crate) use fifo::PAGES as FIFO_PAGES;

/// The ports whose events wake a task. Ports are numbered from 1 on, the lowest free one first.
const PORTS: usize = 512;
/// How often a handler looks again for events that came meanwhile.
const ROUNDS: u32 = 8;
/// Signalling by a vector that is delivered past the local APIC, for a hypervisor without a vector for each processor.
const CALLBACK_VECTOR: u64 = 2 << 56;
/// Old versions want some value there even if each processor has a vector.
const CALLBACK_UNUSED: u64 = 1;

/// Where the hypervisor notes events, and the tasks that wait for ports.
struct Tables<P: Platform> {
    two_level: TwoLevel,
    /// Memory for the other interface, and whether the domain uses it.
    fifo: Option<Fifo<P>>,
    is_fifo: AtomicBool,
    cells: PageTable<P, WakerCell>,
}

impl<P: Platform> Tables<P> {
    /// The queues, if events are noted there.
    #[inline]
    fn queues(&self) -> Option<&Fifo<P>> {
        self.fifo.as_ref().filter(|_| self.is_fifo.load(Ordering::Acquire))
    }

    /// Masks every port. Events of the past are forgotten in the tables, and stay in queues.
    fn mask_all(&self) {
        self.two_level.clear();
        self.queues().into_iter().for_each(Fifo::mask_all);
    }

    fn mask(&self, port: u32) {
        match self.queues() {
            Some(queues) => queues.mask(port),
            None => self.two_level.mask(port),
        }
    }

    /// Unmasks a port; returns whether an event had come: one that came while it was masked raises no interrupt.
    fn unmask(&self, port: u32) -> bool {
        match self.queues() {
            Some(queues) => queues.unmask(port),
            None => self.two_level.unmask(port),
        }
        self.take(port)
    }

    /// Takes the event of a port; returns whether there was one.
    fn take(&self, port: u32) -> bool {
        match self.queues() {
            Some(queues) => queues.take(port),
            None => self.two_level.take(port),
        }
    }

    /// Wakes the tasks of the ports with events. Each is masked until it is armed again, so that a backend cannot raise one interrupt after
    /// another.
    fn deliver(&self, vcpu: u32) {
        let Some((flag, selector)) = self.two_level.vcpu(vcpu) else { return };
        let wake = |port: u32| self.cells.get(port as usize).into_iter().for_each(WakerCell::wake);
        for _ in 0..ROUNDS {
            // The flag first: an event that comes later raises another interrupt, after this one.
            flag.store(0, Ordering::SeqCst);
            match self.queues() {
                Some(queues) => queues.take_all(vcpu, wake),
                None => self.two_level.take_all(selector, wake),
            }
            if flag.load(Ordering::SeqCst) == 0 {
                return;
            }
        }
    }
}

/// What the handler of a processor has.
struct Upcall<P: Platform> {
    tables: NonNull<Tables<P>>,
    vcpu: u32,
    vector: Option<Vector>,
}

// SAFETY: the pointer is to tables that several processors may use.
unsafe impl<P: Platform> Send for Upcall<P> {}
// SAFETY: as above.
unsafe impl<P: Platform> Sync for Upcall<P> {}

impl<P: Platform> Upcall<P> {
    fn handler(upcall: NonNull<Self>) -> RawHandler {
        /// # Safety
        ///
        /// `data` points to a live `Upcall`.
        unsafe fn call<P: Platform>(data: NonNull<()>) -> Handled {
            // SAFETY: the caller guarantees that it is alive, and the tables live as long.
            unsafe {
                let upcall = data.cast::<Upcall<P>>().as_ref();
                upcall.tables.as_ref().deliver(upcall.vcpu);
            }
            Handled::Yes
        }
        RawHandler::new(upcall, call::<P>)
    }
}

/// The event channels of the guest.
pub(crate) struct Events<P: Platform> {
    platform: P,
    upcalls: PageTable<P, Upcall<P>>,
    tables: PageArc<P, Tables<P>>,
    /// Whether each processor has a vector, and can have events of its own.
    interrupts_each: AtomicBool,
    /// Whether the hypervisor notes events where they are looked for.
    is_heard: AtomicBool,
}

impl<P: Platform> Events<P> {
    /// Prepares the tables in the page `shared`, which the hypervisor has mapped, and with `queues` the pages for the FIFO interface, of
    /// which the first one is at that frame.
    pub fn new(
        platform: &P,
        detected: &Detected,
        shared: SharedMemory,
        queues: Option<(SharedMemory, u64)>,
    ) -> Result<Self, AllocError> {
        let cells = PageTable::new(platform, PORTS, |_| WakerCell::new())?;
        let fifo = queues.map(|(memory, frame)| Fifo::new(platform, memory, frame, MAX_VCPUS)).transpose()?;
        let (two_level, is_fifo) = (TwoLevel { shared }, AtomicBool::new(false));
        let tables = PageArc::new(platform, Tables { two_level, fifo, is_fifo, cells })?;
        let count = platform.processors().count().clamp(1, MAX_VCPUS);
        let upcalls = PageTable::new(platform, count as usize, |at| {
            let mut vcpu = at as u32;
            // A processor that does not run has no events.
            let _ = platform
                .processors()
                .run_on(ProcessorId(at as u32), &mut || vcpu = detected.vcpu(platform, at as u32));
            Upcall { tables: tables.as_ptr(), vcpu, vector: None }
        })?;
        let (interrupts_each, is_heard) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Self { platform: platform.clone(), upcalls, tables, interrupts_each, is_heard })
    }

    /// Binds the interrupts, and makes the hypervisor raise them. Without an interrupt everything is polled.
    pub fn start(&mut self, calls: &Calls<P>) {
        self.bind();
        self.signal(calls);
    }

    /// Tells the hypervisor how to interrupt the processors, at first and after the guest was resumed.
    pub fn signal(&self, calls: &Calls<P>) {
        self.tables.is_fifo.store(false, Ordering::Release);
        self.tables.mask_all();
        let mut each = self.choose_interface(calls);
        let mut has_first = false;
        for (at, upcall) in self.upcalls.iter().enumerate() {
            let number = self.descriptor(upcall);
            let is_set = number.is_some_and(|number| calls.set_upcall_vector(upcall.vcpu, number).is_ok());
            has_first |= is_set && at == 0;
            each &= is_set;
        }
        self.interrupts_each.store(each, Ordering::Release);
        let callback = match self.first_descriptor() {
            Some(_) if has_first => CALLBACK_UNUSED,
            Some(number) => CALLBACK_VECTOR | u64::from(number),
            None => return,
        };
        if let Err(error) = calls.set_callback(callback) {
            log::debug!("xen: {error}: the callback is not set");
        }
    }

    /// Has the hypervisor note events in the queues if it can, and tries whether any is found; returns whether each processor can have events
    /// of its own.
    fn choose_interface(&self, calls: &Calls<P>) -> bool {
        // Without an interrupt, nobody takes ports off the queues, and the hypervisor does not use those again.
        let fifo = self.tables.fifo.as_ref().filter(|_| self.first_descriptor().is_some());
        let each = fifo.and_then(|fifo| self.use_fifo(fifo, calls));
        // A hypervisor without channels for that has but one interface.
        let is_heard = self.hears(calls).unwrap_or(true);
        if !is_heard {
            log::warn!("xen: events are not found where they should be: everything is polled");
        }
        self.is_heard.store(is_heard, Ordering::Release);
        each.unwrap_or(true)
    }

    /// `None` if the hypervisor does not have the FIFO interface, or uses it with another kernel's memory.
    fn use_fifo(&self, fifo: &Fifo<P>, calls: &Calls<P>) -> Option<bool> {
        let mut upcalls = self.upcalls.iter().map(|upcall| fifo.add_vcpu(calls, upcall.vcpu));
        let is_new = match upcalls.next()? {
            Ok(()) => true,
            // It may be in use already, since this memory was used before.
            Err(CallError::INVALID) => false,
            Err(_) => return None,
        };
        // A processor that does not run has no queues.
        let each = upcalls.fold(true, |each, added| {
            each & matches!((is_new, added), (_, Ok(())) | (false, Err(CallError::INVALID)))
        });
        fifo.clear();
        if is_new {
            if let Err(error) = fifo.add_words(calls) {
                log::warn!("xen: {error}: event channels have no words");
            }
        }
        self.tables.is_fifo.store(true, Ordering::Release);
        let is_used = is_new || self.hears(calls) == Some(true);
        self.tables.is_fifo.store(is_used, Ordering::Release);
        is_used.then_some(each)
    }

    /// Whether an event is found that this guest sends itself; `None` if it cannot send any.
    fn hears(&self, calls: &Calls<P>) -> Option<bool> {
        let port = calls.bind_ipi(self.upcalls.first()?.vcpu).ok()?;
        self.tables.mask(port);
        let _ = self.tables.take(port);
        let is_quiet = !self.tables.take(port);
        let is_sent = calls.send(port).is_ok();
        let is_heard = self.tables.take(port);
        let _ = calls.close(port);
        Some(is_quiet && is_sent && is_heard)
    }

    fn bind(&mut self) {
        let Self { upcalls, platform, .. } = self;
        for (at, upcall) in (0u32..).zip(upcalls.iter_mut()) {
            if upcall.vector.is_some() {
                continue;
            }
            let handler = Upcall::handler(NonNull::from(&*upcall));
            // SAFETY: the table does not move, and is freed only after `drop` has unbound the vectors.
            upcall.vector = unsafe { platform.interrupts().bind(handler, ProcessorId(at)) }.ok();
        }
    }

    fn descriptor(&self, upcall: &Upcall<P>) -> Option<u8> {
        self.platform.interrupts().descriptor(upcall.vector?)
    }

    /// The interrupt of the first processor, without which there is none at all.
    fn first_descriptor(&self) -> Option<u8> {
        self.descriptor(self.upcalls.first()?)
    }

    /// Whether events interrupt a processor.
    pub fn has_interrupts(&self) -> bool {
        self.is_heard.load(Ordering::Acquire) && self.first_descriptor().is_some()
    }

    /// The number by which hypercalls name a processor that has events.
    pub fn vcpu(&self, processor: ProcessorId) -> Option<u32> {
        let upcall = self.upcalls.get(processor.0 as usize)?;
        // Otherwise events interrupt processor 0 alone.
        (self.interrupts_each.load(Ordering::Acquire) && upcall.vcpu < MAX_VCPUS).then_some(upcall.vcpu)
    }

    /// The time that the hypervisor tells processor `vcpu`.
    pub fn time_info(&self, vcpu: u32) -> Option<paravirt_pvclock::TimeInfo> {
        const TIME: usize = 32;
        let at = (vcpu as usize).checked_mul(VCPU_LEN).filter(|_| vcpu < MAX_VCPUS)?;
        paravirt_pvclock::TimeInfo::read(&self.tables.two_level.shared, at.checked_add(TIME)?)
    }

    fn mask(&self, port: u32) {
        self.tables.mask(port);
    }

    fn unmask(&self, port: u32) -> bool {
        self.tables.unmask(port)
    }

    fn register(&self, port: u32, waker: &Waker) {
        self.tables.cells.get(port as usize).into_iter().for_each(|cell| cell.register(waker));
    }

    /// Whether an event of a port wakes its task.
    fn is_signalled(&self, port: u32) -> bool {
        (port as usize) < PORTS && self.has_interrupts()
    }

    /// Whether events are noted in the queues of the FIFO interface.
    pub fn is_fifo(&self) -> bool {
        self.tables.queues().is_some()
    }

    /// Ends the interrupts.
    pub fn stop(&mut self, calls: &Calls<P>) {
        for upcall in self.upcalls.iter_mut() {
            if upcall.vector.is_some() {
                // Some hypervisors refuse 0: the handler is unbound in any case, and everything is masked.
                let _ = calls.set_upcall_vector(upcall.vcpu, 0);
            }
        }
        self.tables.mask_all();
        for upcall in self.upcalls.iter_mut() {
            upcall.vector.take().into_iter().for_each(|vector| self.platform.interrupts().unbind(vector));
        }
    }
}
