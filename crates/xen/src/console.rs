//! The console that a domain is started with. Xen `xen/include/public/io/console.h`

use crate::bytes::BytePage;
use crate::calls::Parameter;
use crate::events::Port;
use crate::hypervisor::{Hypervisor, OpenError};
use core::fmt;
use core::task::Waker;
use paravirt_device::{Arm, Console, ConsoleSize, Fault, Notify};
use paravirt_platform::{MmioRegion, PageArc, Platform};

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
pub(crate) struct Rings(BytePage);

impl Rings {
    pub fn new(page: BytePage) -> Self {
        Self(page)
    }

    /// Writes the first of `bytes` and returns how many fit.
    pub fn write(&self, bytes: &[u8]) -> usize {
        let produced = self.0.index(OUTPUT_PRODUCED);
        let used = produced.wrapping_sub(self.0.index(OUTPUT_CONSUMED));
        // Impossible indices are those of a host that does not read.
        let room = OUTPUT_LEN.saturating_sub(used) as usize;
        let bytes = bytes.get(..room.min(bytes.len())).unwrap_or_default();
        // It is within the page.
        let _ = self.0.copy_in(OUTPUT, OUTPUT_LEN, produced, bytes);
        self.0.set_index(OUTPUT_PRODUCED, produced.wrapping_add(bytes.len() as u32));
        bytes.len()
    }

    /// Reads the first of the bytes that have come and returns how many.
    fn read(&self, bytes: &mut [u8]) -> usize {
        let consumed = self.0.index(INPUT_CONSUMED);
        let come = self.0.index(INPUT_PRODUCED).wrapping_sub(consumed).min(INPUT_LEN);
        let len = bytes.len().min(come as usize);
        // It is within the page.
        let _ = self.0.copy_out(INPUT, INPUT_LEN, consumed, bytes.get_mut(..len).unwrap_or_default());
        self.0.set_index(INPUT_CONSUMED, consumed.wrapping_add(len as u32));
        len
    }

    fn has_input(&self) -> bool {
        self.0.index(INPUT_PRODUCED) != self.0.index(INPUT_CONSUMED)
    }

    pub fn has_room(&self) -> bool {
        self.0.index(OUTPUT_PRODUCED).wrapping_sub(self.0.index(OUTPUT_CONSUMED)) < OUTPUT_LEN
    }

    pub fn is_flushed(&self) -> bool {
        self.0.index(OUTPUT_CONSUMED) == self.0.index(OUTPUT_PRODUCED)
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
    _region: MmioRegion<P>,
}

impl<P: Platform> XenConsole<P> {
    /// Maps the page of the console.
    ///
    /// # Errors
    ///
    /// [`OpenError`]: there is none, or it cannot be mapped.
    pub fn open(hypervisor: &PageArc<P, Hypervisor<P>>) -> Result<Self, OpenError> {
        let (address, port) = hypervisor.page_and_port(Parameter::ConsoleFrame, Parameter::ConsolePort)?;
        let (region, page) = BytePage::map(hypervisor.platform(), address)?;
        let port = Port::existing(hypervisor, port);
        let (hypervisor, resumed) = (hypervisor.clone(), hypervisor.resumed());
        Ok(Self { hypervisor, rings: Rings::new(page), port, resumed, waker: None, _region: region })
    }
}

impl<P: Platform> XenConsole<P> {
    /// Finds the event channel again, which another domain has under another number.
    fn renew_port(&mut self) {
        if self.resumed != self.hypervisor.resumed() {
            self.resumed = self.hypervisor.resumed();
            if let Ok((_, port)) =
                self.hypervisor.page_and_port(Parameter::ConsoleFrame, Parameter::ConsolePort)
            {
                self.port = Port::existing(&self.hypervisor, port);
                self.waker.iter().for_each(|waker| self.port.register(waker));
            }
        }
    }
}

impl<P: Platform> Notify for XenConsole<P> {
    fn arm(&mut self) -> Arm {
        self.renew_port();
        self.port.arm_unless(|| self.rings.has_input())
    }

    fn disarm(&mut self) {
        self.port.disarm();
    }

    fn register(&mut self, waker: &Waker) {
        self.renew_port();
        self.port.register(waker);
        self.waker = Some(waker.clone());
    }
}

impl<P: Platform> Console for XenConsole<P> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        let written = self.rings.write(bytes);
        if written > 0 {
            self.renew_port();
            self.port.notify();
        }
        Ok(written)
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Fault> {
        let read = self.rings.read(bytes);
        if read > 0 {
            self.renew_port();
            self.port.notify();
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
