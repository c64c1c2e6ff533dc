//! A kernel in one file: reads the first block of its disk, and asks its gateway for an address, without interrupts. Start a port here.
#![no_std]
#![no_main]

// What compiled code expects of the C library.
#[path = "../../kernel/src/arch/x86_64/runtime.rs"]
mod memory;
#[path = "../../kernel/src/runtime.rs"]
mod runtime;

use core::arch::{asm, global_asm};
use core::fmt::{self, Write};
use core::mem::MaybeUninit;
use core::num::NonZeroUsize;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use paravirt::{Block, Device, Firmware, Net, Options, probe};
use paravirt_device::{BlockDevice, BlockQueue, NetDevice, NetQueue, Op, Request, TxMeta};
use paravirt_platform::*;

global_asm!(include_str!("entry.s"));

/// Device registers are above this address, and all memory that this kernel uses is below it: a port refuses all RAM of the machine.
const RAM_END: u64 = 2 << 30;
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
        // As if the counter ran at 8 GHz, which none exceeds: deadlines are later than they are meant, not earlier.
        // SAFETY: the instruction only reads the cycle counter.
        Instant::from_nanos(unsafe { core::arch::x86_64::_rdtsc() } / 8)
    }
    unsafe fn map(&self, phys: u64, len: usize) -> Result<NonNull<u8>, MapError> {
        if phys < RAM_END { Err(MapError) } else { map(phys, len) }
    }
    // Firmware's tables are in RAM.
    unsafe fn map_firmware(&self, phys: u64, len: usize) -> Result<NonNull<u8>, MapError> {
        map(phys, len)
    }
    fn port_io(&self) -> &dyn PortIo {
        self
    }
}

/// Maps what lies in the first 512 GiB one to one, with pages of 2 MiB.
fn map(phys: u64, len: usize) -> Result<NonNull<u8>, MapError> {
    unsafe extern "C" {
        static mut pdpt: [u64; 512];
    }
    let last = (len as u64).checked_sub(1).and_then(|more| phys.checked_add(more)).ok_or(MapError)?;
    for page in (phys >> 21)..=(last >> 21) {
        // SAFETY: one processor runs, and nothing else changes the tables; the addresses in them are of tables from the
        // entry code and from the pool.
        unsafe {
            let directory =
                (&raw mut pdpt).as_mut().and_then(|all| all.get_mut((page >> 9) as usize)).ok_or(MapError)?;
            if *directory == 0 {
                *directory = Machine.dma_alloc(NonZeroUsize::MIN).map_err(|_| MapError)?.bus.0 | 3;
            }
            let entries = (*directory & !0xfff) as *mut u64;
            let entry = entries.add((page & 511) as usize);
            // An entry that is there maps the same page. Present, writable, uncached, of 2 MiB.
            if *entry == 0 {
                *entry = page << 21 | 0x93;
            }
        }
    }
    NonNull::new(phys as *mut u8).ok_or(MapError)
}

// SAFETY: the instructions have the widths that the methods promise.
unsafe impl PortIo for Machine {
    unsafe fn in32(&self, port: u16) -> u32 {
        let value;
        // SAFETY: by the contract of this function.
        unsafe { asm!("in eax, dx", in("dx") port, out("eax") value, options(nostack, preserves_flags)) };
        value
    }
    unsafe fn out32(&self, port: u16, value: u32) {
        // SAFETY: by the contract of this function.
        unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack, preserves_flags)) };
    }
    unsafe fn out16(&self, port: u16, value: u16) {
        // SAFETY: by the contract of this function.
        unsafe { asm!("out dx, ax", in("dx") port, in("ax") value, options(nostack, preserves_flags)) };
    }
}

/// The first serial port.
struct Serial;

impl Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            // SAFETY: the port is that of the serial port's data.
            unsafe {
                asm!("out dx, al", in("dx") 0x3f8u16, in("al") byte, options(nostack, preserves_flags))
            };
        }
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

#[unsafe(no_mangle)]
extern "C" fn start(start_info: *const u64) -> ! {
    // SAFETY: the loader passes its start info, in which this is the address of the RSDP.
    let rsdp = Some(unsafe { start_info.add(4).read() }).filter(|rsdp| *rsdp != 0);
    let (mut disk, mut card) = (None, None);
    // SAFETY: this is a virtual machine that its firmware describes, and no other driver uses its devices.
    let _services = unsafe {
        probe(&Machine, &Firmware::new(rsdp), &Options::default(), &mut |found| match found.device {
            Device::Block(found) => disk = Some(found),
            Device::Net(found) => card = Some(found),
            _ => {}
        })
    };
    let is_done = disk.and_then(read).and(card.and_then(ask)).is_some();
    let _ = writeln!(Serial, "exit={}", u32::from(!is_done));
    // QEMU's `isa-debug-exit` ends the machine.
    // SAFETY: the port is that device's, or no device's.
    unsafe { Machine.out32(0xf4, u32::from(!is_done)) };
    exit::stop()
}

mod exit {
    pub fn stop() -> ! {
        loop {
            // SAFETY: without interrupts, it stops the processor.
            unsafe { core::arch::asm!("hlt") };
        }
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let _ = writeln!(Serial, "{info}");
    exit::stop()
}
