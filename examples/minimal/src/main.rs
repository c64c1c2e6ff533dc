//! A small kernel: reads the first block of its disk, and asks its gateway for an address, without interrupts. Start a port here: this file
//! is the same for every processor, `x86_64` and `aarch64` have what is not.
#![no_std]
#![no_main]

#[cfg_attr(target_arch = "x86_64", path = "x86_64/machine.rs")]
#[cfg_attr(target_arch = "aarch64", path = "aarch64/machine.rs")]
mod machine;
// What compiled code expects of the C library.
#[cfg_attr(target_arch = "x86_64", path = "../../kernel/src/arch/x86_64/runtime.rs")]
#[cfg_attr(target_arch = "aarch64", path = "../../kernel/src/arch/aarch64/runtime.rs")]
mod memory;
#[path = "../../kernel/src/runtime.rs"]
mod runtime;
#[cfg(target_arch = "aarch64")]
#[path = "../../kernel/src/arch/stack_guard.rs"]
mod stack_guard;

use core::fmt::{self, Write};
use core::mem::MaybeUninit;
use core::num::NonZeroUsize;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use paravirt::{Block, Device, Firmware, Net, Options, probe};
use paravirt_device::{BlockDevice, BlockQueue, NetDevice, NetQueue, Op, Request, TxMeta};
use paravirt_platform::*;

/// What devices and drivers get their pages from.
#[repr(align(4096))]
#[allow(dead_code, reason = "used by address only")]
struct Pool(MaybeUninit<[u8; 24 << 20]>);
static mut POOL: Pool = Pool(MaybeUninit::zeroed());
static NEXT: AtomicUsize = AtomicUsize::new(0);

#[derive(Clone)]
struct Machine;

// SAFETY: pages are zeroed and given out once; virtual addresses are physical ones, and mappings stay valid. One processor runs.
unsafe impl Platform for Machine {
    fn dma_alloc(&self, pages: NonZeroUsize) -> Result<RawDma, AllocError> {
        let len = pages.get().checked_mul(PAGE_SIZE).ok_or(AllocError)?;
        let end = |at: usize| at.checked_add(len).filter(|end| *end <= size_of::<Pool>());
        let at = NEXT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, end).map_err(|_| AllocError)?;
        let cpu = NonNull::new((&raw mut POOL).cast::<u8>().wrapping_add(at)).ok_or(AllocError)?;
        Ok(RawDma { cpu, bus: BusAddr(cpu.expose_provenance().get() as u64), pages })
    }
    // Devices are opened once: nothing is worth being given out again.
    unsafe fn dma_free(&self, _region: RawDma) {}
    fn now(&self) -> Instant {
        machine::now()
    }
    unsafe fn map(&self, phys: u64, len: usize) -> Result<NonNull<u8>, MapError> {
        let end = phys.checked_add(len as u64).ok_or(MapError)?;
        if phys < machine::RAM.end && machine::RAM.start < end {
            Err(MapError)
        } else {
            machine::map(phys, len)
        }
    }
    // Firmware's tables are in RAM.
    unsafe fn map_firmware(&self, phys: u64, len: usize) -> Result<NonNull<u8>, MapError> {
        machine::map(phys, len)
    }
    #[cfg(target_arch = "x86_64")]
    fn port_io(&self) -> &dyn PortIo {
        &machine::Ports
    }
}

/// The serial port.
struct Serial;

impl Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(machine::print);
        Ok(())
    }
}

type Buffer = DmaSlice<Machine>;

/// Reads the first block of a disk, and prints the sum of its bytes.
fn read(mut disk: Block<Machine, Buffer>) -> Option<()> {
    let into = DmaSlice::alloc(&Machine, disk.info().block_size as usize).ok()?;
    let mut queue = disk.take_queue(0)?;
    queue.submit(Request::new(1, Op::Read { lba: 0, into })).ok()?;
    queue.kick();
    let done = loop {
        if let Some(done) = queue.complete().ok()? {
            break done;
        }
    };
    done.result.ok()?;
    let sum = done.buffer?.bytes().iter().fold(0, |sum, byte| sum + u64::from(*byte));
    writeln!(Serial, "disk blocks={} first={sum}", disk.info().blocks).ok()
}

/// Asks 10.0.2.2 for its address by ARP (RFC 826), and prints it.
fn ask(mut card: Net<Machine, Buffer>) -> Option<()> {
    let mac = card.info().mac.0;
    let mut queue = card.take_queue(0)?;
    let (_, tx) = queue.split();
    const LEN: usize = 42;
    if !tx.reserve(LEN) {
        return None;
    }
    let parts: [&[u8]; 8] = [
        &[0xff; 6],
        &mac,
        &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
        &mac,
        &[10, 0, 2, 15],
        &[0; 6],
        &[10, 0, 2, 2],
        &[],
    ];
    tx.slot().iter_mut().zip(parts.into_iter().flatten()).for_each(|(to, from)| *to = *from);
    tx.commit(LEN, TxMeta::default()).ok()?;
    tx.kick();
    let end = Machine.now().saturating_add(Duration::from_secs(10));
    while Machine.now() < end {
        queue.poll().ok()?;
        let (rx, _) = queue.split();
        let mut scratch = [0; 2048];
        if let Some([.., 8, 6, 0, 1, 8, 0, 6, 4, 0, 2, a, b, c, d, e, f]) =
            rx.contiguous(&mut scratch).and_then(|frame| frame.get(..28))
        {
            return writeln!(Serial, "gateway mac={a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}").ok();
        }
        if rx.front().is_some() {
            rx.pop();
        }
    }
    None
}

/// Finds the devices that `firmware` describes, works with a disk and a card, and ends.
fn run(firmware: &Firmware<'_>) -> ! {
    let (mut disk, mut card) = (None, None);
    // SAFETY: this is a virtual machine that its firmware describes, and no other driver uses its devices.
    let _services = unsafe {
        probe(&Machine, firmware, &Options::default(), &mut |found| match found.device {
            Device::Block(found) => disk = Some(found),
            Device::Net(found) => card = Some(found),
            _ => {}
        })
    };
    let is_done = disk.and_then(read).and(card.and_then(ask)).is_some();
    let _ = writeln!(Serial, "exit={}", u32::from(!is_done));
    machine::exit(u32::from(!is_done))
}

mod exit {
    pub fn stop() -> ! {
        crate::machine::exit(1)
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let _ = writeln!(Serial, "{info}");
    exit::stop()
}
