//! What finds the devices, and what belongs to no single one.

use crate::handle::{Handle, Waited, handle, waker};
use crate::logging::Line;
use crate::platform::{Kernel, bytes_at};
use crate::*;
use ::paravirt_platform::Instant;
use core::ffi::{c_char, c_void};
use core::fmt::Write;
use core::mem::MaybeUninit;
use core::time::Duration;
use paravirt::{Address, AnyClock, CrashReporter, Device, Event, Firmware, Found, Options, Services};
use paravirt_device::Clock as _;

/// The services of the host that belong to no single device. They own the connections of the buses: devices are out of service when
/// they are closed.
#[derive(Debug)]
pub struct paravirt_services {
    _private: (),
}
handle!(paravirt_services: (Kernel, Services<Kernel, Buffer>));

/// The clock of the hypervisor.
#[derive(Debug)]
pub struct paravirt_clock {
    _private: (),
}
handle!(paravirt_clock: AnyClock<Kernel>);

/// What tells the host that the guest has crashed.
#[derive(Debug)]
pub struct paravirt_crash_reporter {
    _private: (),
}
handle!(paravirt_crash_reporter: CrashReporter<Kernel>);

/// What the boot loader passed to the kernel. All zeroes is nothing.
#[repr(C)]
#[derive(Copy, Clone, Debug)]
pub struct paravirt_firmware {
    /// The physical address of ACPI's RSDP; 0 if it is not known: the BIOS area is searched then, on a machine without a device tree.
    pub rsdp: u64,
    /// The command line, of `command_line_len` bytes, or null.
    pub command_line: *const c_char,
    /// The length of the command line.
    pub command_line_len: usize,
    /// The flattened device tree, in `device_tree_len` bytes or fewer, or null.
    pub device_tree: *const u8,
    /// The length of the device tree.
    pub device_tree_len: usize,
}

/// Options. All zeroes are the defaults.
#[repr(C)]
#[derive(Copy, Clone, Debug, Default)]
pub struct paravirt_options {
    /// The maximum number of queues of a device; 0 for the number of processors.
    pub queues: u16,
    /// The maximum number of entries of a queue; 0 for 1024.
    pub queue_size: u16,
    /// The maximum number of segments of a buffer; 0 for 14.
    pub segments: u16,
    /// Whether the buses are not walked: the kernel opens devices by `paravirt_services_open_mmio`.
    pub leaves_buses: bool,
    /// Whether events of ACPI are left to the kernel: hot plug and the power button.
    pub leaves_host_events: bool,
    /// The timeout of a SCSI command of the library's own, in nanoseconds; 0 for the default.
    pub command_timeout: u64,
    /// The timeout of the reset of a SCSI bus, in nanoseconds; 0 for the default.
    pub reset_timeout: u64,
}

/// The kind of a device that was found.
#[repr(C)]
#[derive(Copy, Clone, Debug)]
pub enum paravirt_kind {
    /// No driver claimed it.
    Unclaimed,
    /// A disk.
    Block,
    /// A network card.
    Net,
    /// A console.
    Console,
    /// A source of random bytes.
    Entropy,
    /// A keyboard, mouse or tablet.
    Input,
    /// Sockets to the host.
    Sockets,
    /// A memory balloon.
    Balloon,
    /// A device was removed, or a controller with all its units.
    Removed,
}

/// The address of a device, for comparison by `paravirt_address_covers`.
#[repr(C)]
#[derive(Copy, Clone, Debug)]
pub struct paravirt_address {
    /// The library's own.
    pub words: [MaybeUninit<u64>; 8],
}

impl From<Address> for paravirt_address {
    fn from(address: Address) -> Self {
        const { assert!(size_of::<Address>() <= 64 && align_of::<Address>() <= 8) }
        let mut this = Self { words: [MaybeUninit::uninit(); 8] };
        // SAFETY: it fits and is aligned.
        unsafe { (&raw mut this).cast::<Address>().write(address) };
        this
    }
}

/// A device that was found, or removed. The handle belongs to the kernel: exactly one is not null, unless `kind` is
/// `PARAVIRT_KIND_UNCLAIMED` or `PARAVIRT_KIND_REMOVED`. The rest is valid during the call.
#[repr(C)]
#[derive(Copy, Clone, Debug)]
pub struct paravirt_found {
    /// The kind.
    pub kind: paravirt_kind,
    /// The address.
    pub address: paravirt_address,
    /// The address as text, for example `pci:0000:00:03.0`, and of an unclaimed device what it is and why. It ends in a zero.
    pub text: *const c_char,
    /// A disk, else null.
    pub block: *mut paravirt_block,
    /// A network card, else null.
    pub net: *mut paravirt_net,
    /// A console, else null.
    pub console: *mut paravirt_console,
    /// A source of random bytes, else null.
    pub entropy: *mut paravirt_entropy,
    /// A keyboard, mouse or tablet, else null.
    pub input: *mut paravirt_input,
    /// Sockets, else null.
    pub sockets: *mut paravirt_sockets,
    /// A balloon, else null.
    pub balloon: *mut paravirt_balloon,
}

/// Receives what is found. It may not call functions of the services.
pub type paravirt_on_found = Option<extern "C" fn(context: *mut c_void, found: *const paravirt_found)>;

/// Passes what was found to the kernel.
struct Report {
    kernel: Kernel,
    on_found: paravirt_on_found,
    context: *mut c_void,
}

impl Report {
    fn found(&self, found: Found<Kernel, Buffer>) {
        let mut line = Line::new();
        let _ = write!(line, "{}", found.address);
        let mut out = self.nothing(found.address.into(), paravirt_kind::Unclaimed);
        let kernel = self.kernel;
        let mut has_memory = true;
        macro_rules! created {
            ($field:ident, $kind:ident, $handle:ident, $value:expr) => {{
                out.$field = $handle::create(kernel, $value);
                has_memory = !out.$field.is_null();
                out.kind = if has_memory { paravirt_kind::$kind } else { paravirt_kind::Unclaimed };
            }};
        }
        match found.device {
            Device::Block(disk) => created!(block, Block, paravirt_block, (kernel, disk)),
            Device::Net(card) => created!(net, Net, paravirt_net, (kernel, card)),
            Device::Console(device) => created!(console, Console, paravirt_console, Waited::new(device)),
            Device::Entropy(device) => created!(entropy, Entropy, paravirt_entropy, Waited::new(device)),
            Device::Input(device) => created!(input, Input, paravirt_input, Waited::new(device)),
            Device::Sockets(device) => created!(sockets, Sockets, paravirt_sockets, Waited::new(device)),
            Device::Balloon(device) => created!(balloon, Balloon, paravirt_balloon, Waited::new(device)),
            Device::Unclaimed(what) => drop(write!(line, ": {what}")),
            _ => drop(write!(line, ": there is no driver for it")),
        }
        if !has_memory {
            let _ = write!(line, ": there is no memory for it");
        }
        self.pass(out, line);
    }

    fn removed(&self, address: Address) {
        let mut line = Line::new();
        let _ = write!(line, "{address}");
        self.pass(self.nothing(address.into(), paravirt_kind::Removed), line);
    }

    fn nothing(&self, address: paravirt_address, kind: paravirt_kind) -> paravirt_found {
        paravirt_found {
            kind,
            address,
            text: core::ptr::null(),
            block: core::ptr::null_mut(),
            net: core::ptr::null_mut(),
            console: core::ptr::null_mut(),
            entropy: core::ptr::null_mut(),
            input: core::ptr::null_mut(),
            sockets: core::ptr::null_mut(),
            balloon: core::ptr::null_mut(),
        }
    }

    fn pass(&self, mut found: paravirt_found, mut line: Line) {
        found.text = line.terminated();
        if let Some(on_found) = self.on_found {
            on_found(self.context, &raw const found);
        }
    }
}

/// Finds every device of the machine, opens those that have a driver, and passes each to `on_found`: PCI by address, then MMIO by address,
/// then VMBus by channel. Returns the services, which the kernel keeps as long as it uses the devices; null if the table of the platform
/// lacks a required function, or if there is no memory for them.
///
/// `firmware` and `options` may be null. Needs 12 KB of stack, without that of the kernel's functions, and blocks for the answers of the
/// host.
///
/// # Safety
///
/// Firmware and command line describe this machine, whose devices no other driver uses, and reading what firmware's tables point to has
/// no side effects.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_probe(
    platform: *const paravirt_platform,
    firmware: *const paravirt_firmware,
    options: *const paravirt_options,
    on_found: paravirt_on_found,
    context: *mut c_void,
) -> *mut paravirt_services {
    // SAFETY: the contract of the crate.
    let (kernel, firmware, options) =
        unsafe { (Kernel::new(platform), firmware.as_ref(), options.as_ref().copied()) };
    let Some(kernel) = kernel else { return core::ptr::null_mut() };
    let mut description = Firmware::new(None);
    if let Some(firmware) = firmware {
        // SAFETY: the contract of the crate.
        let (line, tree) = unsafe {
            (
                bytes_at(firmware.command_line, firmware.command_line_len),
                bytes_at(firmware.device_tree.cast(), firmware.device_tree_len),
            )
        };
        description = Firmware::new(Some(firmware.rsdp).filter(|rsdp| *rsdp != 0))
            .with_command_line(core::str::from_utf8(line).unwrap_or_default());
        if !tree.is_empty() {
            description = description.with_device_tree(tree);
        }
    }
    let options = changed(options.unwrap_or_default());
    let report = Report { kernel, on_found, context };
    // SAFETY: the contract of this function is that of the callee.
    let services =
        unsafe { paravirt::probe(&kernel, &description, &options, &mut |found| report.found(found)) };
    paravirt_services::create(kernel, (kernel, services))
}

fn changed(from: paravirt_options) -> Options {
    let mut options = Options::default();
    options.queues = Some(from.queues).filter(|queues| *queues != 0);
    for (field, value) in [(&mut options.queue_size, from.queue_size), (&mut options.segments, from.segments)]
    {
        if value != 0 {
            *field = value;
        }
    }
    options.walks_buses = !from.leaves_buses;
    options.host_events = !from.leaves_host_events;
    for (field, nanos) in [
        (&mut options.command_timeout, from.command_timeout),
        (&mut options.reset_timeout, from.reset_timeout),
    ] {
        if nanos != 0 {
            *field = Duration::from_nanos(nanos);
        }
    }
    options
}

/// Returns whether `other` is the device at `address`, or a unit of the controller there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_address_covers(
    address: *const paravirt_address,
    other: *const paravirt_address,
) -> bool {
    // SAFETY: by the contract of the crate both came from `paravirt_address::from`.
    unsafe { (*address.cast::<Address>()).covers(&*other.cast::<Address>()) }
}

/// Passes each device that was added or removed since the last call to `on_found`. Blocks while an added device is opened.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_services_poll(
    services: *mut paravirt_services,
    on_found: paravirt_on_found,
    context: *mut c_void,
) {
    // SAFETY: the contract of the crate.
    let (kernel, services) = unsafe { paravirt_services::get(services) };
    let report = Report { kernel: *kernel, on_found, context };
    services.poll(&mut |event| match event {
        Event::Found(found) => report.found(found),
        Event::Removed(address) => report.removed(address),
        _ => {}
    });
}

/// Opens the virtio device whose `len` bytes of registers are at the physical address `base`. `line` may be null. A library that was
/// built without the feature `virtio` passes nothing to `on_found`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_services_open_mmio(
    services: *mut paravirt_services,
    base: u64,
    len: usize,
    line: *const paravirt_line,
    on_found: paravirt_on_found,
    context: *mut c_void,
) {
    use ::paravirt_platform::{InterruptLine, Polarity, Trigger};
    // SAFETY: the contract of the crate.
    let ((kernel, services), line) = unsafe { (paravirt_services::get(services), line.as_ref()) };
    let line = line.map(|line| InterruptLine {
        number: line.number,
        trigger: if line.is_level { Trigger::Level } else { Trigger::Edge },
        polarity: if line.is_low { Polarity::Low } else { Polarity::High },
    });
    let report = Report { kernel: *kernel, on_found, context };
    #[cfg(feature = "virtio")]
    // SAFETY: by the contract of the crate there is a device that no other driver uses.
    unsafe {
        services.open_mmio(base, len, line, &mut |found| report.found(found));
    }
    #[cfg(not(feature = "virtio"))]
    let _ = (services, base, len, line, report);
}

/// Answers what the host asks of the guest as a whole. From the first call on the host expects answers: the kernel calls this on each
/// wake-up of the services. Needs 10 KB of stack on Hyper-V.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_services_serve(
    services: *mut paravirt_services,
    agent: *const paravirt_agent,
) {
    // SAFETY: the contract of the crate.
    unsafe { paravirt_services::get(services).1.serve(&mut { *agent }) }
}

/// Registers the waker for hot plug and for requests of the host.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_services_register(
    services: *mut paravirt_services,
    waker: *const paravirt_waker,
) {
    // SAFETY: the contract of the crate.
    unsafe { paravirt_services::get(services).1.register(&self::waker(waker)) }
}

/// Asks for a wake-up, as `paravirt_arm_wakeup` does.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_services_arm(services: *mut paravirt_services) -> paravirt_arm {
    // SAFETY: the contract of the crate.
    unsafe { paravirt_services::get(services) }.1.arm().into()
}

/// Returns the time by which `paravirt_services_poll` and `paravirt_services_serve` are to be called though nothing has woken the task.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_services_next_deadline(services: *mut paravirt_services) -> u64 {
    // SAFETY: the contract of the crate.
    match unsafe { paravirt_services::get(services) }.1.next_deadline() {
        Instant::NEVER => PARAVIRT_NEVER,
        deadline => deadline.as_nanos(),
    }
}

/// Resets the machine through the hypervisor; returns if it does not support that.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_services_reset(services: *mut paravirt_services) {
    // SAFETY: the contract of the crate.
    unsafe { paravirt_services::get(services) }.1.reset();
}

/// Disconnects from VMBus, before another kernel is started. The devices on it are out of service then.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_services_disconnect(services: *mut paravirt_services) -> paravirt_status {
    // SAFETY: the contract of the crate.
    unsafe { paravirt_services::get(services) }.1.disconnect().into()
}

/// Closes the services; null is permitted.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_services_close(services: *mut paravirt_services) {
    // SAFETY: the contract of the crate.
    unsafe { paravirt_services::close(services) }
}

/// Opens the clock of the hypervisor, one at a time; null if there is none that is the same on all processors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_services_open_clock(
    services: *mut paravirt_services,
) -> *mut paravirt_clock {
    // SAFETY: the contract of the crate.
    let (kernel, services) = unsafe { paravirt_services::get(services) };
    match services.clock() {
        Some(clock) => paravirt_clock::create(*kernel, clock),
        None => core::ptr::null_mut(),
    }
}

/// Returns the time of the clock in nanoseconds. Callable in any context, and by several processors at once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_clock_now(clock: *mut paravirt_clock) -> u64 {
    // SAFETY: the contract of the crate.
    unsafe { paravirt_clock::share(clock) }.now().as_nanos()
}

/// Closes the clock; null is permitted.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_clock_close(clock: *mut paravirt_clock) {
    // SAFETY: the contract of the crate.
    unsafe { paravirt_clock::close(clock) }
}

/// Opens what tells the host of a crash; null if the host accepts no reports.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_services_open_crash_reporter(
    services: *mut paravirt_services,
) -> *mut paravirt_crash_reporter {
    // SAFETY: the contract of the crate.
    let (kernel, services) = unsafe { paravirt_services::get(services) };
    match services.crash_reporter() {
        Some(reporter) => paravirt_crash_reporter::create(*kernel, reporter),
        None => core::ptr::null_mut(),
    }
}

/// Reports a crash, with five values of the guest's and a text of `len` bytes, which may be null. Callable in any context, and by several
/// processors at once. Some hosts stop the guest here.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_report_crash(
    reporter: *mut paravirt_crash_reporter,
    values: *const [u64; 5],
    text: *const c_char,
    len: usize,
) -> bool {
    // SAFETY: the contract of the crate.
    unsafe {
        let text = core::str::from_utf8(bytes_at(text, len)).ok().filter(|text| !text.is_empty());
        paravirt_crash_reporter::share(reporter).report(*values, text)
    }
}

/// Closes the reporter; null is permitted.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_crash_reporter_close(reporter: *mut paravirt_crash_reporter) {
    // SAFETY: the contract of the crate.
    unsafe { paravirt_crash_reporter::close(reporter) }
}
