//! A virtio balloon device.

use crate::{Chain, FakeDevice, Guest, Ring, Served, sync_queues};
use paravirt_virtio::features::Features;
use paravirt_virtio::transport::{DeviceType, Transport};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

/// MUST_TELL_HOST, STATS_VQ and PAGE_REPORTING. VIRTIO 1.3 §5.5.3
const FEATURES: u64 = 1 << 0 | 1 << 1 | 1 << 5;

struct State {
    queues: Vec<Served>,
    taken: BTreeSet<u32>,
    reported: Vec<(u64, u32)>,
    statistics: Vec<(u16, u64)>,
    /// The statistics buffer that the device holds, with the generation of its queue.
    report: Option<(u32, Chain)>,
    is_silent: bool,
    faults: Vec<String>,
}

/// A virtio balloon device. A handle: clones are the same device.
#[derive(Clone)]
pub struct VirtioBalloonHost {
    guest: Guest,
    ring: Ring,
    device: FakeDevice,
    state: Arc<Mutex<State>>,
}

impl VirtioBalloonHost {
    /// Creates a balloon that holds no page and asks for none.
    pub fn new(guest: &Guest, ring: Ring) -> Self {
        let packed = if ring == Ring::Packed { Features::RING_PACKED } else { Features::empty() };
        let all = Features::EVENT_IDX | Features::INDIRECT_DESC | Features::VERSION_1 | packed;
        let device = FakeDevice::new(DeviceType::BALLOON, FEATURES | all.bits(), &[64; 4], &[0; 16]);
        let state = State {
            queues: (0..4).map(|_| None).collect(),
            taken: BTreeSet::new(),
            reported: vec![],
            statistics: vec![],
            report: None,
            is_silent: false,
            faults: vec![],
        };
        Self { guest: guest.clone(), ring, device, state: Arc::new(Mutex::new(state)) }
    }

    fn with<R>(&self, work: impl FnOnce(&mut State) -> R) -> R {
        work(&mut self.state.lock().expect("the balloon"))
    }

    /// Creates a transport for the driver.
    pub fn transport(&self) -> Transport<Guest> {
        self.device.transport(&self.guest)
    }

    /// The register interface.
    pub fn device(&self) -> &FakeDevice {
        &self.device
    }

    /// Sets the number of pages that the device asks for, in all.
    pub fn set_target(&self, pages: u32) {
        self.device.registers().config[..4].copy_from_slice(&pages.to_le_bytes());
    }

    /// The number of pages that the driver reports as given up: `actual`.
    pub fn actual(&self) -> u32 {
        u32::from_le_bytes(self.device.registers().config[4..8].try_into().expect("four bytes"))
    }

    /// Sets whether requests are taken without being completed.
    pub fn set_silent(&self, is_silent: bool) {
        self.with(|state| state.is_silent = is_silent);
    }

    /// Numbers of the pages that the device holds.
    pub fn taken(&self) -> BTreeSet<u32> {
        self.with(|state| state.taken.clone())
    }

    /// The last statistics: tag and value of each.
    pub fn statistics(&self) -> Vec<(u16, u64)> {
        self.with(|state| state.statistics.clone())
    }

    /// Free memory that was reported: guest address and length in bytes.
    pub fn reported(&self) -> Vec<(u64, u32)> {
        self.with(|state| state.reported.clone())
    }

    /// Protocol violations of the driver.
    pub fn faults(&self) -> Vec<String> {
        self.with(|state| state.faults.clone())
    }

    /// Requests new statistics by using the statistics buffer.
    pub fn request_statistics(&self) {
        self.with(|state| {
            sync_queues(&self.guest, self.ring, &self.device, &mut state.queues);
            match (&mut state.queues[2], state.report.take()) {
                (Some((generation, queue)), Some((of, report))) if *generation == of => {
                    queue.push(&report, 0)
                }
                _ => {}
            }
        });
    }

    /// Forgets the pages held and the statistics buffer, as a device reset does.
    pub fn reset_state(&self) {
        self.with(|state| {
            state.taken.clear();
            state.report = None;
        });
    }

    /// Serves all available requests.
    pub fn work(&self) {
        self.with(|state| {
            sync_queues(&self.guest, self.ring, &self.device, &mut state.queues);
            for index in 0..state.queues.len() {
                let Some((generation, mut queue)) = state.queues[index].take() else { continue };
                while let Some(chain) = queue.pop() {
                    if index == 2 {
                        state.take_statistics(&chain);
                        state.report = Some((generation, chain));
                    } else if !state.is_silent {
                        state.serve(index, &chain);
                        queue.push(&chain, 0);
                    }
                }
                let _ = queue.enable_notification();
                state.queues[index] = Some((generation, queue));
            }
        });
    }
}

impl State {
    fn take_statistics(&mut self, chain: &Chain) {
        let entries = chain.readable.chunks_exact(10);
        self.statistics = entries
            .map(|entry| {
                let (tag, value) = entry.split_at(2);
                let value = value.try_into().expect("eight bytes");
                (u16::from_le_bytes([tag[0], tag[1]]), u64::from_le_bytes(value))
            })
            .collect();
    }

    fn serve(&mut self, index: usize, chain: &Chain) {
        for page in chain.readable.chunks_exact(4) {
            let page = u32::from_le_bytes(page.try_into().expect("four bytes"));
            let is_right = if index == 0 { self.taken.insert(page) } else { self.taken.remove(&page) };
            if !is_right {
                self.faults.push(format!("queue {index} page {page:#x} inflated or deflated twice"));
            }
        }
        if index == 3 {
            self.reported.extend(chain.writable.iter().copied());
        }
    }
}
