//! A virtio network device.

use crate::{Chain, FakeDevice, Guest, Ring, Served, sync_queues};
use paravirt_virtio::features::Features;
use paravirt_virtio::net::config::NetFeatures;
use paravirt_virtio::transport::{DeviceType, Transport};
use std::sync::{Arc, Mutex};

const HEADER: usize = 12;

struct State {
    queues: [Served; 3],
    /// Frames that the guest transmitted: header and frame.
    sent: Vec<(Vec<u8>, Vec<u8>)>,
    /// Receive buffers that were taken for a frame for which they are not enough.
    held: Vec<Chain>,
    /// Frames to be received by the guest: header without `num_buffers`, and frame.
    pending: Vec<(Vec<u8>, Vec<u8>)>,
    /// Commands received on the control queue.
    commands: Vec<Vec<u8>>,
}

/// A virtio network device with one queue pair and a control queue; the test is the other end of the wire. A handle: clones are the
/// same device.
#[derive(Clone)]
pub struct NetHost {
    guest: Guest,
    ring: Ring,
    device: FakeDevice,
    state: Arc<Mutex<State>>,
}

impl NetHost {
    /// Creates a device that offers `features` in addition to those of the queues.
    pub fn new(guest: &Guest, ring: Ring, features: NetFeatures) -> Self {
        let mut all = (Features::all() - Features::IN_ORDER).bits() | features.bits();
        if ring == Ring::Split {
            all &= !Features::RING_PACKED.bits();
        }
        let mut config = vec![2, 0, 0, 0, 0, 9, 1, 0, 1, 0];
        config.extend(1500u16.to_le_bytes());
        config.extend([0; 8]);
        let device = FakeDevice::new(DeviceType::NET, all, &[64, 64, 16], &config);
        let state = State {
            queues: [const { None }; 3],
            sent: vec![],
            held: vec![],
            pending: vec![],
            commands: vec![],
        };
        let host = Self { guest: guest.clone(), ring, device, state: Arc::new(Mutex::new(state)) };
        let worker = host.clone();
        guest.attach(move || worker.work());
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

    /// Queues a frame for reception, with the first ten bytes of its header.
    pub fn deliver(&self, header: [u8; 10], frame: &[u8]) {
        self.state.lock().expect("state").pending.push((header.to_vec(), frame.to_vec()));
    }

    /// Returns the frames transmitted since the last call: header and frame.
    pub fn take_sent(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        std::mem::take(&mut self.state.lock().expect("state").sent)
    }

    /// Returns the commands received since the last call.
    pub fn take_commands(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.state.lock().expect("state").commands)
    }

    /// Moves frames in both directions and acknowledges commands.
    pub fn work(&self) {
        let state = &mut *self.state.lock().expect("state");
        sync_queues(&self.guest, self.ring, &self.device, &mut state.queues);
        let [rx, tx, control] = &mut state.queues;
        if let Some((_, tx)) = tx {
            while let Some(chain) = tx.pop() {
                // A frame that is shorter than its header is dropped.
                if let Some((header, frame)) = chain.readable.split_at_checked(HEADER) {
                    state.sent.push((header.to_vec(), frame.to_vec()));
                }
                tx.push(&chain, 0);
            }
            tx.enable_notification();
        }
        if let Some((_, control)) = control {
            while let Some(chain) = control.pop() {
                state.commands.push(chain.readable.clone());
                let len = chain.write(&self.guest, &[0]);
                control.push(&chain, len);
            }
            control.enable_notification();
        }
        let Some((_, rx)) = rx else { return };
        while !state.pending.is_empty() {
            let (header, frame) = state.pending[0].clone();
            let mut bytes = [header, vec![1, 0], frame].concat();
            while state.held.iter().map(Chain::room).sum::<usize>() < bytes.len() {
                // The frame waits until the guest provides more buffers.
                let Some(chain) = rx.pop() else { return };
                state.held.push(chain);
            }
            state.pending.remove(0);
            let chains = std::mem::take(&mut state.held);
            bytes[10..12].copy_from_slice(&(chains.len() as u16).to_le_bytes());
            for chain in &chains {
                let len = chain.write(&self.guest, &bytes);
                bytes.drain(..len as usize);
                rx.push(chain, len);
            }
        }
    }
}
