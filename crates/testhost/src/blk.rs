//! A virtio block device.

use crate::{Chain, FakeDevice, Guest, Ring, Served, sync_queues};
use paravirt_virtio::blk::config::BlkFeatures;
use paravirt_virtio::features::Features;
use paravirt_virtio::transport::{DeviceType, Transport};
use std::sync::{Arc, Mutex};

/// How a disk answers requests.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub enum BlkFaultConfig {
    /// Executes them.
    #[default]
    Works,
    /// Takes them from the queue and never completes them.
    Silent,
    /// Executes them, and reports as written what it has read as well, as kvmtool does.
    CountsReads,
    /// Completes them with this status byte, without executing them.
    Status(u8),
}

/// The status of a request that failed. VIRTIO 1.3 §5.2.6
const IO_ERROR: u8 = 1;

struct State {
    disk: Vec<u8>,
    queues: Vec<Served>,
    /// Types of the requests received, oldest first.
    log: Vec<u32>,
    fault_config: BlkFaultConfig,
}

/// A virtio block device whose disk is in memory. A handle: clones are the same device.
#[derive(Clone)]
pub struct BlkHost {
    guest: Guest,
    ring: Ring,
    device: FakeDevice,
    state: Arc<Mutex<State>>,
}

impl BlkHost {
    /// Creates a disk of `sectors` sectors with two queues of 64 entries and every feature that the driver knows, except
    /// read-only and in-order.
    pub fn new(guest: &Guest, ring: Ring, sectors: u64) -> Self {
        let features = BlkFeatures::all().difference(BlkFeatures::RO).bits() | Features::all().bits();
        Self::with(guest, ring, sectors, features & !Features::IN_ORDER.bits(), &[64, 64])
    }

    /// Creates a disk with `features` and queues of `sizes` entries; `ring` determines the feature bit of the queue format.
    pub fn with(guest: &Guest, ring: Ring, sectors: u64, features: u64, sizes: &[u16]) -> Self {
        let mut config = vec![0; 60];
        let mut put = |at: usize, bytes: &[u8]| config[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &sectors.to_le_bytes());
        put(8, &65536u32.to_le_bytes());
        put(12, &8u32.to_le_bytes());
        put(20, &512u32.to_le_bytes());
        put(32, &[1]);
        put(34, &(sizes.len() as u16).to_le_bytes());
        for (at, value) in [(36, 64u32), (40, 1), (44, 8), (48, 64), (52, 1)] {
            put(at, &value.to_le_bytes());
        }
        let packed = Features::RING_PACKED.bits();
        let features = if ring == Ring::Packed { features | packed } else { features & !packed };
        let device = FakeDevice::new(DeviceType::BLOCK, features, sizes, &config);
        let queues = sizes.iter().map(|_| None).collect();
        let disk = vec![0; (sectors * 512) as usize];
        let state =
            Arc::new(Mutex::new(State { disk, queues, log: vec![], fault_config: BlkFaultConfig::Works }));
        let host = Self { guest: guest.clone(), ring, device, state };
        let worker = host.clone();
        guest.attach(move || {
            worker.work();
        });
        host
    }

    /// Creates a transport for the driver.
    pub fn transport(&self) -> Transport<Guest> {
        self.device.transport(&self.guest)
    }

    /// The register interface.
    pub fn device(&self) -> &FakeDevice {
        &self.device
    }

    /// Sets how requests are answered from now on.
    pub fn set_fault_config(&self, fault_config: BlkFaultConfig) {
        self.state.lock().expect("state").fault_config = fault_config;
    }

    /// Returns the types of the requests received since the last call.
    pub fn take_log(&self) -> Vec<u32> {
        std::mem::take(&mut self.state.lock().expect("state").log)
    }

    /// Copies sector `index`.
    pub fn sector(&self, index: usize) -> Vec<u8> {
        self.state.lock().expect("state").disk[index * 512..][..512].to_vec()
    }

    /// Serves all available requests and returns how many there were.
    pub fn work(&self) -> usize {
        let state = &mut *self.state.lock().expect("state");
        sync_queues(&self.guest, self.ring, &self.device, &mut state.queues);
        let mut served = 0;
        for index in 0..state.queues.len() {
            let Some((generation, mut device)) = state.queues[index].take() else { continue };
            loop {
                while let Some(chain) = device.pop() {
                    served += 1;
                    if let Some(len) = state.serve(&self.guest, &chain) {
                        device.push(&chain, len);
                    }
                }
                if !device.enable_notification() {
                    break;
                }
            }
            state.queues[index] = Some((generation, device));
        }
        served
    }
}

impl State {
    /// Returns `len` bytes from sector `first` on, if the disk has them.
    fn blocks(&mut self, first: u64, len: usize) -> Option<&mut [u8]> {
        let at = usize::try_from(first.checked_mul(512)?).ok()?;
        self.disk.get_mut(at..at.checked_add(len)?)
    }

    /// Executes one request and returns the number of bytes written; `None` for no completion.
    fn serve(&mut self, guest: &Guest, chain: &Chain) -> Option<u32> {
        let bytes = |at: usize, len: usize| chain.readable.get(at..at + len);
        // What a short request leaves out reads as ones: a type that does not exist, beyond the end of the disk.
        let word =
            |at| bytes(at, 4).map_or(u32::MAX, |b| u32::from_le_bytes(b.try_into().expect("four bytes")));
        let long =
            |at| bytes(at, 8).map_or(u64::MAX, |b| u64::from_le_bytes(b.try_into().expect("eight bytes")));
        let kind = word(0);
        self.log.push(kind);
        // Without room for the status the request completes with nothing written.
        let Some(room) = chain.room().checked_sub(1) else { return Some(0) };
        let (status, data) = match self.fault_config {
            BlkFaultConfig::Silent => return None,
            BlkFaultConfig::Status(status) => (status, vec![0; room.min(self.disk.len())]),
            BlkFaultConfig::Works | BlkFaultConfig::CountsReads => match kind {
                0 => match self.blocks(long(8), room) {
                    Some(data) => (0, data.to_vec()),
                    None => (IO_ERROR, vec![]),
                },
                1 => {
                    let data = chain.readable.get(16..).unwrap_or_default();
                    match self.blocks(long(8), data.len()) {
                        Some(to) => {
                            to.copy_from_slice(data);
                            (0, vec![])
                        }
                        None => (IO_ERROR, vec![]),
                    }
                }
                4 => (0, vec![]),
                8 => (0, b"testhost\0\0\0\0\0\0\0\0\0\0\0\0".to_vec()),
                11 | 13 => match self.blocks(long(16), word(24) as usize * 512) {
                    Some(blocks) => {
                        blocks.fill(0);
                        (0, vec![])
                    }
                    None => (IO_ERROR, vec![]),
                },
                _ => (2, vec![]),
            },
        };
        let mut all = data;
        all.push(status);
        let written = chain.write(guest, &all);
        let is_counted = self.fault_config == BlkFaultConfig::CountsReads;
        Some(written + if is_counted { chain.readable.len() as u32 } else { 0 })
    }
}
