//! The console that a domain is started with. Xen `xen/include/public/io/console.h`

use crate::calls::Parameter;
use crate::events::Port;
use crate::hypervisor::{Hypervisor, OpenError};
use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering, fence};
use core::task::Waker;
use paravirt_device::{Arm, Console, ConsoleSize, Fault, Notify};
use paravirt_platform::{MmioRegion, PAGE_SIZE, PageArc, Platform, SharedMemory};

/// Bytes from the host, and to it.
const INPUT: usize = 0;
const INPUT_LEN: u32 = 1024;
const OUTPUT: usize = 1024;
const OUTPUT_LEN: u32 = 2048;
/// Offsets of the indices, which run freely.
const INPUT_CONSUMED: usize = 3072;
const INPUT_PRODUCED: usize = 3076;
const OUTPUT_CONSUMED: usize = 3080;
const OUTPUT_PRODUCED: usize = 3084;

/// The two byte rings in the console's page.
#[derive(Debug)]
pub(crate) struct Rings(SharedMemory);

impl Rings {
    pub fn new(page: SharedMemory) -> Self {
        Self(page)
    }

    fn load(&self, offset: usize) -> u32 {
        self.0.at::<AtomicU32>(offset).map_or(0, |word| word.load(Ordering::Acquire))
    }

    fn store(&self, offset: usize, value: u32) {
        self.0.at::<AtomicU32>(offset).into_iter().for_each(|word| word.store(value, Ordering::Release));
    }

    /// Where index `at` is in a ring of `size` bytes, and how many of `len` bytes are ahead of its end.
    fn parts(at: u32, len: usize, size: u32) -> (usize, usize) {
        let offset = at & size.wrapping_sub(1);
        (offset as usize, len.min(size.wrapping_sub(offset) as usize))
    }

    /// Writes the first of `bytes` and returns how many fit.
    pub fn write(&self, bytes: &[u8]) -> usize {
        let produced = self.load(OUTPUT_PRODUCED);
        let used = produced.wrapping_sub(self.load(OUTPUT_CONSUMED));
        // Impossible indices are those of a host that does not read.
        let room = OUTPUT_LEN.saturating_sub(used) as usize;
        let bytes = bytes.get(..room.min(bytes.len())).unwrap_or_default();
        let (offset, len) = Self::parts(produced, bytes.len(), OUTPUT_LEN);
        let (first, second) = bytes.split_at(len);
        // Both are within the ring.
        let _ = self.0.copy_in(OUTPUT.saturating_add(offset), first);
        let _ = self.0.copy_in(OUTPUT, second);
        self.store(OUTPUT_PRODUCED, produced.wrapping_add(bytes.len() as u32));
        bytes.len()
    }

    /// Reads the first of the bytes that have come and returns how many.
    fn read(&self, bytes: &mut [u8]) -> usize {
        let consumed = self.load(INPUT_CONSUMED);
        let come = self.load(INPUT_PRODUCED).wrapping_sub(consumed).min(INPUT_LEN);
        let len = bytes.len().min(come as usize);
        let (bytes, _) = bytes.split_at_mut(len);
        let (offset, part) = Self::parts(consumed, len, INPUT_LEN);
        let (first, second) = bytes.split_at_mut(part);
        // Both are within the ring.
        let _ = self.0.copy_out(INPUT.saturating_add(offset), first);
        let _ = self.0.copy_out(INPUT, second);
        fence(Ordering::SeqCst);
        self.store(INPUT_CONSUMED, consumed.wrapping_add(len as u32));
        len
    }

    fn has_input(&self) -> bool {
        self.load(INPUT_PRODUCED) != self.load(INPUT_CONSUMED)
    }

    pub fn has_room(&self) -> bool {
        self.load(OUTPUT_PRODUCED).wrapping_sub(self.load(OUTPUT_CONSUMED)) < OUTPUT_LEN
    }

    pub fn is_flushed(&self) -> bool {
        self.load(OUTPUT_CONSUMED) == self.load(OUTPUT_PRODUCED)
    }
}

/// The console of a domain.
///
/// Bytes that nobody reads on the host stay in the ring: a write returns 0 then, and does not wait. Where this side is in the rings stands in
/// the page alone, so that a kernel may write its first lines there itself.
pub struct XenConsole<P: Platform> {
    hypervisor: PageArc<P, Hypervisor<P>>,
    rings: Rings,
    port: Port<P>,
    /// How often the guest had been resumed when the port was read.
    resumed: u32,
    waker: Option<Waker>,
    /// Keeps the page mapped.
    _page: MmioRegion<P>,
}

impl<P: Platform> XenConsole<P> {
    /// Maps the page of the console.
    ///
    /// # Errors
    ///
    /// [`OpenError`]: there is none, or it cannot be mapped.
    pub fn open(hypervisor: &PageArc<P, Hypervisor<P>>) -> Result<Self, OpenError> {
        let (address, port) = hypervisor.page_and_port(Parameter::ConsoleFrame, Parameter::ConsolePort)?;
        // SAFETY: the hypervisor names the page of its console; the platform refuses the kernel's memory.
        let page = unsafe { MmioRegion::map(hypervisor.platform(), address, PAGE_SIZE) }
            .map_err(|_| OpenError::NoFrames)?;
        // SAFETY: the page is mapped for as long as the region lives, beside which the view is kept, and accessed as atomics only.
        let view = unsafe { SharedMemory::new(page.pointer(0).ok_or(OpenError::NoFrames)?, PAGE_SIZE) };
        let port = Port::existing(hypervisor, port);
        let (hypervisor, resumed) = (hypervisor.clone(), hypervisor.resumed());
        Ok(Self { hypervisor, rings: Rings::new(view), port, resumed, waker: None, _page: page })
    }
}

impl<P: Platform> XenConsole<P> {
    /// The event channel, which another domain has under another number.
    fn port(&mut self) -> &Port<P> {
        if self.resumed != self.hypervisor.resumed() {
            self.resumed = self.hypervisor.resumed();
            if let Ok((_, port)) =
                self.hypervisor.page_and_port(Parameter::ConsoleFrame, Parameter::ConsolePort)
            {
                self.port = Port::existing(&self.hypervisor, port);
                self.waker.iter().for_each(|waker| self.port.register(waker));
            }
        }
        &self.port
    }
}

impl<P: Platform> Notify for XenConsole<P> {
    fn arm(&mut self) -> Arm {
        let raced = self.port().arm();
        let has_input = self.rings.has_input();
        match () {
            () if raced || has_input => Arm::Pending,
            () if self.port.is_signalled() => Arm::Armed,
            () => Arm::Unsignalled,
        }
    }

    fn disarm(&mut self) {
        self.port.disarm();
    }

    fn register(&mut self, waker: &Waker) {
        self.port().register(waker);
        self.waker = Some(waker.clone());
    }
}

impl<P: Platform> Console for XenConsole<P> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        let written = self.rings.write(bytes);
        if written > 0 {
            self.port().notify();
        }
        Ok(written)
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Fault> {
        let read = self.rings.read(bytes);
        if read > 0 {
            self.port().notify();
        }
        Ok(read)
    }

    fn is_flushed(&mut self) -> Result<bool, Fault> {
        Ok(self.rings.is_flushed())
    }

    fn size(&self) -> Option<ConsoleSize> {
        None
    }
}

impl<P: Platform> fmt::Debug for XenConsole<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("XenConsole").field("port", &self.port).finish_non_exhaustive()
    }
}
