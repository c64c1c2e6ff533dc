//! The adapters that the example kernel does not use.
#![cfg(all(feature = "virtio-drivers-hal", feature = "embedded-io"))]

use core::ptr::NonNull;
use embedded_io::{Read, ReadReady, Write};
use paravirt_adapters::console::{Stream, StreamError};
use paravirt_adapters::hal::{HalBuffer, HalPlatform};
use paravirt_device::{Arm, Clock, Console, ConsoleSize, Fault, Notify};
use paravirt_platform::{Direction, DmaBuffer, DmaSlice, Instant, Platform, SubmitError};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Waker;
use virtio_drivers::{BufferDirection, Hal, PhysAddr};

struct TestHal;
static SHARED: AtomicUsize = AtomicUsize::new(0);
static PAGES: AtomicUsize = AtomicUsize::new(0);

fn layout(pages: usize) -> Layout {
    Layout::from_size_align(pages * 4096, 4096).expect("a layout")
}

// SAFETY: pages are zeroed and used by nothing else; buffers are shared in place.
unsafe impl Hal for TestHal {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        PAGES.fetch_add(pages, Ordering::SeqCst);
        // SAFETY: the layout is not empty.
        let at = NonNull::new(unsafe { alloc_zeroed(layout(pages)) }).expect("memory");
        (at.as_ptr() as PhysAddr, at)
    }
    unsafe fn dma_dealloc(_: PhysAddr, at: NonNull<u8>, pages: usize) -> i32 {
        PAGES.fetch_sub(pages, Ordering::SeqCst);
        // SAFETY: allocated with this layout.
        unsafe { dealloc(at.as_ptr(), layout(pages)) }
        0
    }
    unsafe fn mmio_phys_to_virt(_: PhysAddr, _: usize) -> NonNull<u8> {
        NonNull::dangling()
    }
    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        SHARED.fetch_add(1, Ordering::SeqCst);
        buffer.cast::<u8>().as_ptr() as PhysAddr
    }
    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {
        SHARED.fetch_sub(1, Ordering::SeqCst);
    }
}

struct Stopped;
impl Clock for Stopped {
    fn now(&self) -> Instant {
        Instant::from_nanos(42)
    }
}
static CLOCK: Stopped = Stopped;

#[test]
fn a_hal_is_a_platform() {
    let platform = HalPlatform::<TestHal, _>::new(&CLOCK);
    assert_eq!(platform.now(), Instant::from_nanos(42));
    let mut slice = DmaSlice::alloc(&platform, 5000).expect("memory");
    assert!(slice.bytes().iter().all(|byte| *byte == 0));
    slice.bytes_mut().fill(1);
    assert!(PAGES.load(Ordering::SeqCst) >= 2);
    drop(slice);
    assert_eq!(PAGES.load(Ordering::SeqCst), 0);
}

#[test]
fn a_buffer_is_submitted_once_and_not_accessible_in_flight() {
    let mut buffer = HalBuffer::<TestHal>::new(vec![7; 100].leak());
    assert_eq!(buffer.submit(Direction::ToDevice).expect("submitted").as_slice()[0].len, 100);
    assert_eq!(buffer.submit(Direction::ToDevice).expect_err("twice"), SubmitError::InFlight);
    assert!(buffer.bytes_mut().is_none());
    assert_eq!(SHARED.load(Ordering::SeqCst), 1);
    // SAFETY: the buffer was submitted above, and there is no device that could access it.
    unsafe { buffer.reclaim() }
    assert_eq!(SHARED.load(Ordering::SeqCst), 0);
    assert_eq!(buffer.into_bytes().expect("its bytes"), [7; 100]);
    let mut empty = HalBuffer::<TestHal>::new(vec![].leak());
    assert_eq!(empty.submit(Direction::FromDevice).expect_err("an empty buffer"), SubmitError::Length);
}

/// A console that echoes what is written, four bytes at a time.
#[derive(Default)]
struct Loopback(VecDeque<u8>, bool);

impl Notify for Loopback {
    fn arm(&mut self) -> Arm {
        Arm::Armed
    }
    fn disarm(&mut self) {}
    fn register(&mut self, _: &Waker) {}
}

impl Console for Loopback {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        if self.1 {
            return Err(Fault::Removed);
        }
        let count = bytes.len().min(4);
        self.0.extend(&bytes[..count]);
        Ok(count)
    }
    fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Fault> {
        let count = bytes.len().min(self.0.len());
        bytes.iter_mut().zip(self.0.drain(..count)).for_each(|(to, from)| *to = from);
        Ok(count)
    }
    fn is_flushed(&mut self) -> Result<bool, Fault> {
        Ok(true)
    }
    fn size(&self) -> Option<ConsoleSize> {
        None
    }
}

#[test]
fn a_console_is_a_stream() {
    let mut waits = 0;
    let mut stream = Stream::new(Loopback::default(), |console: &mut Loopback| {
        waits += 1;
        console.0.push_back(b'!');
    });
    stream.write_all(b"hello, console").expect("written");
    stream.flush().expect("flushed");
    assert!(stream.read_ready().expect("no fault"));
    let mut back = [0; 15];
    stream.read_exact(&mut back).expect("read");
    assert_eq!(&back, b"hello, console!");
    assert!(!stream.read_ready().expect("no fault"));
    assert_eq!(waits, 1);
    let mut gone = Stream::new(Loopback(VecDeque::new(), true), |_: &mut Loopback| ());
    assert_eq!(gone.write(b"x"), Err(StreamError(Fault::Removed)));
}
