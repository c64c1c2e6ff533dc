//! The console device, with one port. VIRTIO 1.3 §5.3

use crate::device::{OpenOptions, VirtioDevice};
use crate::features::Features;
use crate::request_queue::{BoxedQueue, Outcome, QueueBuilder, QueueParams};
use crate::transport::{OpenError, Transport, config_fields, read_config};
use core::fmt;
use core::task::Waker;
use paravirt_device::{Arm, Console, ConsoleSize, Fault, Notify};
use paravirt_platform::{Direction, DmaSlice, Fifo, Platform, ProcessorId};
use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// VIRTIO_CONSOLE_F_SIZE: the configuration has the size of the screen. VIRTIO 1.3 §5.3.3
const F_SIZE: u64 = 1 << 0;
/// Buffers of each queue, and bytes of one.
const BUFFERS: u16 = 16;
const BUFFER_LEN: usize = 256;

/// `struct virtio_console_config`, without the fields for several ports. VIRTIO 1.3 §5.3.4
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct WireSize {
    cols: U16,
    rows: U16,
}

const _: () = assert!(size_of::<WireSize>() == 4);

/// A received buffer: its bytes from `next` to `end` have not been read.
struct Input<P: Platform> {
    buffer: DmaSlice<P>,
    next: usize,
    end: usize,
}

/// A virtio console with one port.
pub struct VirtioConsole<P: Platform> {
    rx: BoxedQueue<P, DmaSlice<P>>,
    tx: BoxedQueue<P, DmaSlice<P>>,
    input: Fifo<P, Input<P>>,
    rx_spare: Fifo<P, DmaSlice<P>>,
    tx_spare: Fifo<P, DmaSlice<P>>,
    size: Option<ConsoleSize>,
}

impl<P: Platform> VirtioConsole<P> {
    /// Initialises the device and puts its queues in service.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; the device has then been reset.
    pub fn open(platform: &P, transport: Transport<P>, options: &OpenOptions) -> Result<Self, OpenError> {
        let device = VirtioDevice::open(platform, transport, |_| F_SIZE | Features::SUPPORTED.bits())?;
        let params = |index| QueueParams::new(index, options.queue_size.min(BUFFERS));
        let rx = QueueBuilder::new(&device, &params(0))?;
        let tx = QueueBuilder::new(&device, &params(1))?;
        device.start(|_| ProcessorId(0))?;
        let mut console = Self {
            rx: rx.build_boxed()?,
            tx: tx.build_boxed()?,
            input: Fifo::new(platform, usize::from(BUFFERS))?,
            rx_spare: Fifo::new(platform, usize::from(BUFFERS))?,
            tx_spare: Fifo::new(platform, usize::from(BUFFERS))?,
            size: None,
        };
        if device.features() & F_SIZE != 0 {
            let bytes: [u8; size_of::<WireSize>()] =
                device.with_transport(|t| read_config(t, config_fields!(WireSize: cols, rows)));
            let size: WireSize = zerocopy::transmute!(bytes);
            let size = ConsoleSize { columns: size.cols.get(), rows: size.rows.get() };
            console.size = (size.columns > 0 && size.rows > 0).then_some(size);
        }
        let mut each = 0u16;
        DmaSlice::alloc_many(platform, usize::from(BUFFERS) << 1, BUFFER_LEN, |slice| {
            // Half of the buffers for each direction; the pools have the capacity for that.
            let _ = if each & 1 == 0 { console.rx_spare.push(slice) } else { console.tx_spare.push(slice) };
            each = each.wrapping_add(1);
        })?;
        console.poll_rx()?;
        Ok(console)
    }

    /// Collects received buffers, and submits the unused ones.
    fn poll_rx(&mut self) -> Result<(), Fault> {
        while let Some(outcome) = self.rx.next()? {
            match outcome {
                Outcome::Used(used) => {
                    if let Some(buffer) = used.buffer {
                        let _ = self.input.push(Input { buffer, next: 0, end: used.len as usize });
                    }
                }
                Outcome::Aborted(used) => {
                    if let Some(buffer) = used.buffer {
                        let _ = self.rx_spare.push(buffer);
                    }
                }
            }
        }
        self.rx.refill(&mut self.rx_spare);
        Ok(())
    }
}

impl<P: Platform> fmt::Debug for VirtioConsole<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VirtioConsole").field("size", &self.size).finish_non_exhaustive()
    }
}

impl From<Fault> for OpenError {
    fn from(fault: Fault) -> Self {
        if fault == Fault::Removed { Self::Absent } else { Self::Queue }
    }
}

impl<P: Platform> Notify for VirtioConsole<P> {
    fn arm(&mut self) -> Arm {
        self.rx.refill(&mut self.rx_spare);
        let arm = self.rx.arm().and(self.tx.arm());
        if self.input.is_empty() { arm } else { Arm::Pending }
    }

    fn disarm(&mut self) {
        self.rx.disarm();
        self.tx.disarm();
    }

    fn register(&mut self, waker: &Waker) {
        self.rx.register(waker);
        self.tx.register(waker);
    }
}

impl<P: Platform> Console for VirtioConsole<P> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        self.tx.reclaim_all(&mut self.tx_spare)?;
        let mut written = 0usize;
        for chunk in bytes.chunks(BUFFER_LEN) {
            if !self.tx.queue().has_room(1) {
                break;
            }
            let Some(mut buffer) = self.tx_spare.pop() else { break };
            buffer.set_len(chunk.len());
            buffer.bytes_mut().iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
            if !self.tx.submit_from(buffer, Direction::ToDevice, &mut self.tx_spare) {
                break;
            }
            written = written.saturating_add(chunk.len());
        }
        self.tx.kick();
        Ok(written)
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Fault> {
        let state = self.poll_rx();
        let mut filled = 0usize;
        while let Some(input) = self.input.get_mut(0) {
            let from = input.buffer.bytes().get(input.next..input.end).unwrap_or_default();
            let to = bytes.get_mut(filled..).unwrap_or_default();
            let count = from.len().min(to.len());
            for (to, from) in to.iter_mut().zip(from) {
                *to = *from;
            }
            filled = filled.saturating_add(count);
            input.next = input.next.saturating_add(count);
            if input.next < input.end {
                break;
            }
            if let Some(done) = self.input.pop() {
                let _ = self.rx_spare.push(done.buffer);
            }
        }
        self.rx.refill(&mut self.rx_spare);
        // Data received before a fault can still be read.
        if filled == 0 {
            state?;
        }
        Ok(filled)
    }

    fn is_flushed(&mut self) -> Result<bool, Fault> {
        self.tx.reclaim_all(&mut self.tx_spare)?;
        Ok(self.tx.in_flight() == 0)
    }

    fn size(&self) -> Option<ConsoleSize> {
        self.size
    }
}
