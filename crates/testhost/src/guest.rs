//! A platform whose memory is rust-vmm's guest memory.

use crate::count::uncounted;
use crate::{AcpiHost, HvHost, KvmHost, Memory, PciHost, VmwareHypervisor, XenHost};
use paravirt_platform::{
    AllocError, BindError, BusAddr, HyperV, Instant, InterruptLine, Interrupts, MapError, Message, PAGE_SIZE,
    Platform, PortIo, ProcessorId, Processors, RawDma, RawHandler, Registers, Requester, RunError, Vector,
    Xen, XenInstruction,
};
use std::cell::Cell;
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use vm_memory::{GuestAddress, GuestMemoryMmap};

/// The first address of guest memory: not 0, so that a null address is outside memory.
const BASE: u64 = 0x10_0000;
const PAGES: usize = 16 << 10;

type Hook = Box<dyn FnMut() + Send>;

struct Inner {
    memory: Memory,
    /// Free runs of pages: first and count.
    free: Mutex<Vec<(usize, usize)>>,
    pages: AtomicU64,
    /// Runs of pages that hold the state of drivers: devices know none of them.
    private: Mutex<Vec<(usize, usize)>>,
    turned: AtomicU64,
    start: std::time::Instant,
    hooks: Mutex<Vec<Hook>>,
    processors: u32,
    has_interrupts: bool,
    /// Vectors that can be bound.
    vectors: AtomicU32,
    /// How many messages of each PCI function the guest programs itself.
    own_entries: Mutex<Option<u16>>,
    /// Those that are bound.
    entries: Mutex<Vec<(Requester, u16, Vector)>>,
    handlers: Mutex<Vec<Option<(RawHandler, u32)>>>,
    /// Interrupt lines, and the vectors that they are routed to.
    lines: Mutex<Vec<(u32, Vector)>>,
    interrupts: AtomicU64,
    hypervisor: Mutex<Option<Hypervisor>>,
    pci: Mutex<Option<PciHost>>,
    acpi: Mutex<Option<AcpiHost>>,
    /// How many pages Xen gets, and the bus address of the first, once they were asked for.
    xen_frames: Mutex<(NonZeroUsize, Option<u64>)>,
    /// Registers outside memory: physical address, and what they hold.
    registers: Mutex<Vec<(u64, Box<[AtomicU64]>)>>,
}

/// What the guest runs on.
#[derive(Clone)]
enum Hypervisor {
    HyperV(HvHost),
    Kvm(KvmHost),
    VMware(VmwareHypervisor),
    Xen(XenHost),
}

/// Interrupt descriptor of vector 0.
const FIRST_DESCRIPTOR: u8 = 0x30;

thread_local! {
    /// The virtual processor that this thread runs as.
    static CURRENT: Cell<u32> = const { Cell::new(0) };
}

/// A platform in a process: 64 MiB of rust-vmm guest memory, and a clock that follows real time and can be advanced. A handle:
/// clones are the same guest.
///
/// [`Platform::relax`] runs the hosts that were [attached](Self::attach).
#[derive(Clone)]
pub struct Guest(Arc<Inner>);

/// A weak handle of a guest, for hosts that the guest owns.
#[derive(Clone)]
pub struct WeakGuest(Weak<Inner>);

impl WeakGuest {
    /// Runs `work` with the guest, unless it was dropped.
    pub fn with(&self, work: impl FnOnce(&Guest)) {
        if let Some(inner) = self.0.upgrade() {
            work(&Guest(inner));
        }
    }

    /// Advances the clock.
    pub fn turn(&self, by: Duration) {
        self.with(|guest| guest.turn(by));
    }
}

impl Default for Guest {
    fn default() -> Self {
        Self::new()
    }
}

impl Guest {
    /// A guest with all its memory free.
    pub fn new() -> Self {
        Self::with(1, false)
    }

    /// Creates a guest with `processors` virtual processors, with or without interrupts. Threads act as processors; a thread is the
    /// first processor unless it runs on another one.
    pub fn with(processors: u32, has_interrupts: bool) -> Self {
        let range = [(GuestAddress(BASE), PAGES * PAGE_SIZE)];
        let memory = GuestMemoryMmap::<()>::from_ranges(&range).expect("64 MiB of memory");
        Self(Arc::new(Inner {
            memory: Memory::new(memory),
            free: Mutex::new(vec![(0, PAGES)]),
            pages: AtomicU64::new(0),
            private: Mutex::new(vec![]),
            turned: AtomicU64::new(0),
            start: std::time::Instant::now(),
            hooks: Mutex::new(vec![]),
            processors,
            has_interrupts,
            vectors: AtomicU32::new(u32::MAX),
            handlers: Mutex::new(vec![]),
            own_entries: Mutex::new(None),
            entries: Mutex::new(vec![]),
            lines: Mutex::new(vec![]),
            interrupts: AtomicU64::new(0),
            hypervisor: Mutex::new(None),
            pci: Mutex::new(None),
            acpi: Mutex::new(None),
            xen_frames: Mutex::new((XEN_FRAMES, None)),
            registers: Mutex::new(vec![]),
        }))
    }

    /// A handle that does not keep the guest alive, for [attached](Self::attach) hosts.
    pub fn downgrade(&self) -> WeakGuest {
        WeakGuest(Arc::downgrade(&self.0))
    }

    /// Number of virtual processors.
    pub fn processors(&self) -> u32 {
        self.0.processors
    }

    pub(crate) fn set_hypervisor(&self, host: HvHost) {
        *self.0.hypervisor.lock().expect("hypervisor") = Some(Hypervisor::HyperV(host));
    }

    pub(crate) fn set_kvm(&self, host: KvmHost) {
        *self.0.hypervisor.lock().expect("hypervisor") = Some(Hypervisor::Kvm(host));
    }

    pub(crate) fn set_vmware(&self, host: VmwareHypervisor) {
        *self.0.hypervisor.lock().expect("hypervisor") = Some(Hypervisor::VMware(host));
    }

    pub(crate) fn set_xen(&self, host: XenHost) {
        *self.0.hypervisor.lock().expect("hypervisor") = Some(Hypervisor::Xen(host));
    }

    pub(crate) fn set_pci(&self, host: PciHost) {
        *self.0.pci.lock().expect("pci") = Some(host);
    }

    pub(crate) fn set_acpi(&self, host: AcpiHost) {
        *self.0.acpi.lock().expect("acpi") = Some(host);
    }

    fn acpi(&self) -> Option<AcpiHost> {
        self.0.acpi.lock().expect("acpi").clone()
    }

    /// Puts registers at physical address `at`, outside memory, that read as what was written last: first as `bytes`, a multiple of 8.
    pub fn add_registers(&self, at: u64, bytes: &[u8]) {
        let words = bytes
            .chunks_exact(8)
            .map(|word| AtomicU64::new(u64::from_le_bytes(word.try_into().expect("8 bytes"))));
        self.0.registers.lock().expect("registers").push((at, words.collect()));
    }

    /// A pointer to the registers at physical address `at`, of `len` bytes.
    fn registers_at(&self, at: u64, len: usize) -> Option<NonNull<u8>> {
        let registers = self.0.registers.lock().expect("registers");
        let (start, words) = registers
            .iter()
            .find(|(start, words)| *start <= at && at + len as u64 <= start + 8 * words.len() as u64)?;
        // The words are atomic, so that their address may be written through.
        let base = NonNull::new(words.as_ptr().cast_mut().cast::<u8>())?;
        // SAFETY: within the words, which live as long as the guest.
        Some(unsafe { base.add((at - start) as usize) })
    }

    /// Reads a byte of registers.
    pub fn register(&self, at: u64) -> u8 {
        let byte = self.registers_at(at, 1).expect("a register");
        // SAFETY: `registers_at` returns a pointer to a byte of them.
        unsafe { byte.read_volatile() }
    }

    /// Writes a byte of registers, as a host does.
    pub(crate) fn set_register_byte(&self, at: u64, value: u8) {
        let byte = self.registers_at(at, 1).expect("a register");
        // SAFETY: `registers_at` returns a pointer to a byte of them.
        unsafe { byte.write_volatile(value) };
    }

    /// Writes a word of 32 bits of registers, as a host does.
    pub(crate) fn set_register(&self, at: u64, value: u32) {
        let word = self.registers_at(at, 4).expect("a register");
        // SAFETY: `registers_at` returns a pointer to four bytes of them, which are aligned as the address is.
        unsafe { (*word.cast::<AtomicU32>().as_ptr()).store(value, Ordering::SeqCst) };
    }

    fn hypervisor(&self) -> Option<Hypervisor> {
        self.0.hypervisor.lock().expect("hypervisor").clone()
    }

    fn pci(&self) -> Option<PciHost> {
        self.0.pci.lock().expect("pci").clone()
    }

    /// Delivers an interrupt: runs the handler bound to `descriptor` on `processor`.
    pub(crate) fn interrupt(&self, processor: u32, descriptor: u8) {
        let Some((handler, bound_to)) = self.handler(usize::from(descriptor.wrapping_sub(FIRST_DESCRIPTOR)))
        else {
            return;
        };
        assert_eq!(bound_to, processor, "the interrupt was delivered to another processor");
        self.deliver(handler, processor);
    }

    /// Delivers a message that a device sends: runs the handler that it was allocated for.
    pub(crate) fn raise_message(&self, message: Message) {
        if let Some((handler, processor)) = self.handler(message.data as usize) {
            self.deliver(handler, processor);
        }
    }

    /// Delivers the interrupt of a line: runs each handler that is routed to it.
    pub fn raise_line(&self, number: u32) {
        let lines = self.0.lines.lock().expect("lines").clone();
        for (_, vector) in lines.iter().filter(|(line, _)| *line == number) {
            if let Some((handler, processor)) = self.handler(vector.0 as usize) {
                self.deliver(handler, processor);
            }
        }
    }

    /// Sets how many pages Xen gets.
    ///
    /// # Panics
    ///
    /// If it is none.
    pub fn set_xen_frames(&self, pages: usize) {
        *self.0.xen_frames.lock().expect("frames") = (NonZeroUsize::new(pages).expect("pages"), None);
    }

    /// Lets the guest program the messages of PCI functions itself, `count` of each.
    pub fn own_entries(&self, count: u16) {
        *self.0.own_entries.lock().expect("entries") = Some(count);
    }

    /// Raises the message of entry `entry` of the function, if the guest has bound it itself.
    pub fn raise_entry(&self, from: Requester, entry: u16) {
        let entries = self.0.entries.lock().expect("entries").clone();
        for (_, _, vector) in entries.iter().filter(|bound| (bound.0, bound.1) == (from, entry)) {
            if let Some((handler, processor)) = self.handler(vector.0 as usize) {
                self.deliver(handler, processor);
            }
        }
    }

    /// Sets how many vectors the guest has.
    pub fn limit_vectors(&self, count: u32) {
        self.0.vectors.store(count, Ordering::SeqCst);
    }

    /// Handlers that are bound now.
    pub fn bound_handlers(&self) -> usize {
        self.0.handlers.lock().expect("handlers").iter().flatten().count()
    }

    /// The handler of a vector, and its processor.
    fn handler(&self, place: usize) -> Option<(RawHandler, u32)> {
        self.0.handlers.lock().expect("handlers").get(place).copied().flatten()
    }

    fn deliver(&self, handler: RawHandler, processor: u32) {
        self.0.interrupts.fetch_add(1, Ordering::SeqCst);
        // SAFETY: the handler is bound: `unbind` removes it from the table.
        on(processor, || unsafe { handler.call() });
    }

    /// Interrupts delivered so far.
    pub fn interrupts(&self) -> u64 {
        self.0.interrupts.load(Ordering::SeqCst)
    }

    /// Reference time in units of 100 ns.
    pub(crate) fn reference_time(&self) -> u64 {
        self.now().as_nanos() / 100
    }

    /// Guest memory, as a device accesses it.
    pub fn memory(&self) -> &Memory {
        &self.0.memory
    }

    /// Pages allocated now. What is left after everything was dropped has leaked.
    pub fn pages(&self) -> u64 {
        self.0.pages.load(Ordering::SeqCst)
    }

    /// Advances the clock.
    pub fn turn(&self, by: Duration) {
        self.0.turned.fetch_add(by.as_nanos() as u64, Ordering::SeqCst);
    }

    /// Runs `work` whenever a driver calls [`Platform::relax`].
    pub fn attach(&self, work: impl FnMut() + Send + 'static) {
        self.0.hooks.lock().expect("hooks").push(Box::new(work));
    }

    /// Frees all memory, that which drivers leaked as well, as a reset of the machine does. There is no hypervisor afterwards.
    ///
    /// # Safety
    ///
    /// No memory of this guest is used any more: every driver and buffer was dropped or leaked, no handler is bound, and no device
    /// reads or writes.
    pub unsafe fn free_all(&self) {
        self.0.pages.store(0, Ordering::SeqCst);
        self.0.private.lock().expect("private pages").clear();
        *self.0.hypervisor.lock().expect("hypervisor") = None;
        self.0.xen_frames.lock().expect("frames").1 = None;
        *self.0.free.lock().expect("free list") = vec![(0, PAGES)];
    }

    /// Writes `next()` to every word of the memory that devices can reach, as a hostile host of a confidential virtual machine can at
    /// any time: all that was allocated by [`dma_alloc`](Platform::dma_alloc), and none of [`state_alloc`](Platform::state_alloc).
    pub fn scribble(&self, mut next: impl FnMut() -> u64) {
        let mut hidden = self.0.free.lock().expect("free list").clone();
        hidden.extend(self.0.private.lock().expect("private pages").iter());
        for page in 0..PAGES {
            if hidden.iter().any(|(first, count)| (*first..first + count).contains(&page)) {
                continue;
            }
            let bytes: Vec<u8> = (0..PAGE_SIZE / 8).flat_map(|_| next().to_le_bytes()).collect();
            self.write(BASE + (page * PAGE_SIZE) as u64, &bytes);
        }
    }

    /// Writes guest memory, as a device does.
    pub fn write(&self, address: u64, bytes: &[u8]) {
        self.0.memory.write(address, bytes);
    }

    /// Reads guest memory, as a device does.
    pub fn read(&self, address: u64, len: usize) -> Vec<u8> {
        self.0.memory.read(address, len)
    }

    /// The host pointer to guest address `address`.
    pub fn host(&self, address: u64) -> *mut u8 {
        self.0.memory.host(address, 1).expect("an address in guest memory")
    }
}

// SAFETY: pages are mapped memory, zeroed by `dma_alloc`, and not in the free list until `dma_free`.
unsafe impl Platform for Guest {
    fn dma_alloc(&self, pages: NonZeroUsize) -> Result<RawDma, AllocError> {
        let mut free = self.0.free.lock().expect("free list");
        let at = free.iter().position(|(_, count)| *count >= pages.get()).ok_or(AllocError)?;
        let (first, count) = free[at];
        match count - pages.get() {
            0 => drop(free.swap_remove(at)),
            left => free[at] = (first + pages.get(), left),
        }
        drop(free);
        self.0.pages.fetch_add(pages.get() as u64, Ordering::SeqCst);
        let bus = BASE + (first * PAGE_SIZE) as u64;
        self.write(bus, &vec![0; pages.get() * PAGE_SIZE]);
        let cpu = NonNull::new(self.host(bus)).ok_or(AllocError)?;
        Ok(RawDma { cpu, bus: BusAddr(bus), pages })
    }

    unsafe fn dma_free(&self, region: RawDma) {
        self.0.pages.fetch_sub(region.pages.get() as u64, Ordering::SeqCst);
        let (first, _) = run(&region);
        // Poison freed memory, so that a use after free is noticed.
        self.write(region.bus.0, &vec![0xdd; region.len()]);
        let mut free = self.0.free.lock().expect("free list");
        free.push((first, region.pages.get()));
        free.sort_unstable();
        // Merge adjacent runs.
        free.dedup_by(|next, run| {
            let touches = run.0 + run.1 == next.0;
            run.1 += if touches { next.1 } else { 0 };
            touches
        });
    }

    fn state_alloc(&self, pages: NonZeroUsize) -> Result<RawDma, AllocError> {
        let region = self.dma_alloc(pages)?;
        self.0.private.lock().expect("private pages").push(run(&region));
        Ok(region)
    }

    unsafe fn state_free(&self, region: RawDma) {
        let freed = run(&region);
        self.0.private.lock().expect("private pages").retain(|run| *run != freed);
        // SAFETY: `state_alloc` allocated it so.
        unsafe { self.dma_free(region) }
    }

    unsafe fn map(&self, phys: u64, len: usize) -> Result<NonNull<u8>, MapError> {
        self.registers_at(phys, len).ok_or(MapError)
    }

    fn now(&self) -> Instant {
        let turned = self.0.turned.load(Ordering::SeqCst);
        Instant::from_nanos(self.0.start.elapsed().as_nanos() as u64 + turned)
    }

    fn relax(&self) {
        if let Ok(mut hooks) = self.0.hooks.try_lock() {
            hooks.iter_mut().for_each(|work| work());
            if let Some(Hypervisor::Xen(host)) = self.hypervisor() {
                host.run();
            }
        }
    }

    fn interrupts(&self) -> &dyn Interrupts {
        self
    }
    fn processors(&self) -> &dyn Processors {
        self
    }
    fn port_io(&self) -> &dyn PortIo {
        self
    }
    fn registers(&self) -> &dyn Registers {
        self
    }
    fn hyperv(&self) -> &dyn HyperV {
        self
    }
    fn xen(&self) -> &dyn Xen {
        self
    }
}

/// The virtual processor that this thread runs as.
pub(crate) fn current_processor() -> u32 {
    CURRENT.get()
}

/// Returns the run of pages of a region: first and count.
fn run(region: &RawDma) -> (usize, usize) {
    (((region.bus.0 - BASE) / PAGE_SIZE as u64) as usize, region.pages.get())
}

/// Runs `work` as virtual processor `processor`.
fn on<R>(processor: u32, work: impl FnOnce() -> R) -> R {
    let before = CURRENT.replace(processor);
    let result = work();
    CURRENT.set(before);
    result
}

// SAFETY: a handler is called while it is in the table, by a thread that is here.
unsafe impl Interrupts for Guest {
    fn descriptor(&self, vector: Vector) -> Option<u8> {
        Some(FIRST_DESCRIPTOR + vector.0 as u8)
    }
    unsafe fn bind(&self, handler: RawHandler, processor: ProcessorId) -> Result<Vector, BindError> {
        if !self.0.has_interrupts {
            return Err(BindError::Unsupported);
        }
        if self.free_vectors() == 0 {
            return Err(BindError::Exhausted);
        }
        let mut handlers = self.0.handlers.lock().expect("handlers");
        let place = handlers.iter().position(Option::is_none).unwrap_or(handlers.len());
        if place == handlers.len() {
            handlers.push(None);
        }
        handlers[place] = Some((handler, processor.0));
        Ok(Vector(place as u32))
    }

    fn own_entries(&self, _from: Requester) -> Option<u16> {
        *self.0.own_entries.lock().expect("entries")
    }

    unsafe fn bind_entry(
        &self,
        from: Requester,
        entry: u16,
        handler: RawHandler,
        processor: ProcessorId,
    ) -> Result<Vector, BindError> {
        // SAFETY: by the contract of this function.
        let vector = unsafe { self.bind(handler, processor) }?;
        self.0.entries.lock().expect("entries").push((from, entry, vector));
        Ok(vector)
    }

    fn free_vectors(&self) -> u32 {
        self.0.vectors.load(Ordering::SeqCst).saturating_sub(self.bound_handlers() as u32)
    }

    fn message(&self, vector: Vector, _from: Option<Requester>) -> Option<Message> {
        Some(Message { address: 0xfee0_0000, data: vector.0 })
    }

    fn route(&self, line: InterruptLine, vector: Vector) -> Result<(), BindError> {
        self.0.lines.lock().expect("lines").push((line.number, vector));
        Ok(())
    }

    fn unbind(&self, vector: Vector) {
        self.0.entries.lock().expect("entries").retain(|(_, _, bound)| *bound != vector);
        self.0.lines.lock().expect("lines").retain(|(_, routed)| *routed != vector);
        self.0.handlers.lock().expect("handlers")[vector.0 as usize] = None;
    }
}

// SAFETY: the ports are modelled, or absent.
unsafe impl PortIo for Guest {
    unsafe fn in32(&self, port: u16) -> u32 {
        let acpi = self.acpi().and_then(|host| host.read32(port));
        acpi.or_else(|| Some(self.pci()?.read(port))).unwrap_or(u32::MAX)
    }
    unsafe fn out32(&self, port: u16, value: u32) {
        self.acpi().into_iter().for_each(|host| host.write32(port, value));
        self.pci().into_iter().for_each(|host| host.write(port, &value.to_le_bytes()));
    }
    unsafe fn in16(&self, port: u16) -> u16 {
        self.acpi().and_then(|host| host.read16(port)).unwrap_or(u16::MAX)
    }
    unsafe fn vmware_call(&self, command: u32, parameter: u32) -> Option<[u32; 4]> {
        match self.hypervisor() {
            Some(Hypervisor::VMware(host)) => Some(host.call(command, parameter)),
            _ => None,
        }
    }
    unsafe fn out16(&self, port: u16, value: u16) {
        self.acpi().into_iter().for_each(|host| host.write16(port, value));
        self.pci().into_iter().for_each(|host| host.write(port, &value.to_le_bytes()));
    }
}

// SAFETY: the registers are modelled, or absent.
unsafe impl Registers for Guest {
    fn cpuid(&self, leaf: u32) -> [u32; 4] {
        match self.hypervisor() {
            Some(Hypervisor::HyperV(host)) => host.cpuid(leaf),
            Some(Hypervisor::Kvm(_)) => KvmHost::cpuid(leaf),
            Some(Hypervisor::VMware(host)) => host.cpuid(leaf),
            Some(Hypervisor::Xen(host)) => host.cpuid(leaf),
            None => [0; 4],
        }
    }
    fn tsc(&self) -> u64 {
        self.now().as_nanos()
    }
    unsafe fn read_msr(&self, index: u32) -> u64 {
        match self.hypervisor() {
            Some(Hypervisor::HyperV(host)) => host.read_msr(self, CURRENT.get(), index),
            Some(Hypervisor::Kvm(_) | Hypervisor::VMware(_) | Hypervisor::Xen(_)) => {
                panic!("register {index:#x} is read, which is not offered")
            }
            None => 0,
        }
    }
    unsafe fn write_msr(&self, index: u32, value: u64) {
        match self.hypervisor() {
            Some(Hypervisor::HyperV(host)) => host.write_msr(self, CURRENT.get(), index, value),
            Some(Hypervisor::Kvm(host)) => host.write_msr(self, CURRENT.get(), index, value),
            None | Some(Hypervisor::VMware(_) | Hypervisor::Xen(_)) => {}
        }
    }
}

// SAFETY: hypercalls are executed by the model.
unsafe impl HyperV for Guest {
    fn hypercall_page(&self) -> Option<RawDma> {
        self.dma_alloc(NonZeroUsize::MIN).ok()
    }
    unsafe fn free_hypercall_page(&self, page: RawDma) {
        // SAFETY: by the contract of this function, which is that of the callee.
        unsafe { self.dma_free(page) }
    }
    unsafe fn hypercall(&self, _page: *const u8, control: u64, input: u64, _output: u64) -> u64 {
        host_side(|| match self.hypervisor() {
            Some(Hypervisor::HyperV(host)) => host.hypercall(self, control, input),
            _ => u64::MAX,
        })
    }
}

/// How many pages Xen gets: the shared one, 64 of grants, and 2 of event channels.
const XEN_FRAMES: NonZeroUsize = NonZeroUsize::new(67).expect("not zero");

// SAFETY: the pages are allocated once; hypercalls are executed by the model.
unsafe impl Xen for Guest {
    fn shared_frames(&self) -> Option<RawDma> {
        let (pages, place) = &mut *self.0.xen_frames.lock().expect("frames");
        let bus = match *place {
            Some(bus) => bus,
            None => {
                let raw = self.dma_alloc(*pages).ok()?;
                // They are no driver's to free.
                self.0.pages.fetch_sub(pages.get() as u64, Ordering::SeqCst);
                *place.insert(raw.bus.0)
            }
        };
        Some(RawDma { cpu: NonNull::new(self.host(bus))?, bus: BusAddr(bus), pages: *pages })
    }

    unsafe fn hypercall(&self, _instruction: XenInstruction, number: u32, arguments: [u64; 3]) -> i64 {
        const SET_TIMER: u32 = 15;
        const VCPU_OP: u32 = 24;
        host_side(|| match (self.hypervisor(), number, arguments) {
            (Some(Hypervisor::Xen(host)), SET_TIMER, [nanos, ..]) => host.set_timer(nanos),
            (Some(Hypervisor::Xen(_)), VCPU_OP, _) => -38,
            (Some(Hypervisor::Xen(host)), ..) => host.hypercall(number, arguments),
            _ => -38,
        })
    }
}

/// Runs the host's part of a driver's call: its allocations do not count as the driver's.
#[inline(never)]
pub(crate) fn host_side<R>(work: impl FnOnce() -> R) -> R {
    uncounted(work)
}
impl Processors for Guest {
    fn count(&self) -> u32 {
        self.0.processors
    }
    fn current(&self) -> ProcessorId {
        ProcessorId(CURRENT.get())
    }
    fn run_on(&self, processor: ProcessorId, work: &mut (dyn FnMut() + Send)) -> Result<(), RunError> {
        if processor.0 >= self.0.processors {
            return Err(RunError);
        }
        on(processor.0, work);
        Ok(())
    }
}
