//! A frame of 60 bytes by the `virtio-drivers` crate, sent and received as its users do: the frame is copied behind the header, and a
//! buffer that was received is posted again.

use crate::peer::{PEER, PeerHal, peer_transport};
use crate::peer_transport::PeerTransport;
use paravirt_testhost::bench::{MinimalDevice, Part};
use paravirt_testhost::count::counted;
use paravirt_testhost::{FakeDevice, Guest};
use paravirt_virtio::features::Features;
use paravirt_virtio::net::config::NetFeatures;
use paravirt_virtio::transport::DeviceType;
use std::hint::black_box;
use virtio_drivers::device::net::VirtIONetRaw;

/// Entries of a queue: more than a batch.
const SIZE: usize = 64;
const FRAME: usize = 60;
/// Bytes of a header.
const HEADER: usize = 12;
/// Indices of the queues.
const RX: usize = 0;
const TX: usize = 1;

type Card = VirtIONetRaw<PeerHal, PeerTransport, SIZE>;

struct Net {
    card: Card,
    registers: FakeDevice,
    device: MinimalDevice,
    /// Buffers with the token of each.
    buffers: Vec<(Vec<u8>, u16)>,
}

impl Net {
    fn new(queue: usize, len: usize) -> Self {
        let features = Features::VERSION_1 | Features::INDIRECT_DESC | Features::EVENT_IDX;
        let features = features.bits() | NetFeatures::MAC.bits();
        let registers = FakeDevice::new(DeviceType::NET, features, &[SIZE as u16; 2], &[2; 12]);
        let card = Card::new(peer_transport(&registers)).expect("a card");
        let addresses = registers.registers().queues[queue].expect("set up").addresses;
        let guest = PEER.get_or_init(Guest::new);
        // SAFETY: the queue, which this value keeps, is split there; `PeerHal::share` gives pointers of this process as addresses.
        let device = unsafe {
            MinimalDevice::new(|at| guest.host(at), &addresses, (HEADER + FRAME) as u32).with_pointers()
        };
        Self { card, registers, device, buffers: (0..SIZE).map(|_| (vec![0; len], 0)).collect() }
    }
}

/// Sends.
pub struct PeerTx(Net);

impl PeerTx {
    pub fn new() -> Self {
        Self(Net::new(TX, HEADER + FRAME))
    }

    #[inline(never)]
    fn driver_side_send(&mut self, size: u64, frame: &[u8; FRAME]) {
        let Net { card, buffers, .. } = &mut self.0;
        for (buffer, token) in buffers.iter_mut().take(size as usize) {
            let at = card.fill_buffer_header(buffer).expect("room for a header");
            buffer[at..].copy_from_slice(frame);
            // SAFETY: the buffer lives as long as this value, and is left alone until `driver_side_complete`.
            *token = unsafe { card.transmit_begin(buffer) }.expect("room");
        }
    }

    #[inline(never)]
    fn driver_side_complete(&mut self, size: u64) {
        let Net { card, buffers, .. } = &mut self.0;
        for (buffer, token) in buffers.iter().take(size as usize) {
            assert_eq!(card.poll_transmit(), Some(*token));
            // SAFETY: this is the buffer that `driver_side_send` submitted.
            unsafe { card.transmit_complete(*token, buffer) }.expect("sent");
        }
    }
}

impl Part for PeerTx {
    fn batch(&mut self, size: u64) {
        counted(|| self.driver_side_send(size, black_box(&[7; FRAME])));
        assert_eq!(u64::from(self.0.device.serve()), size);
        counted(|| self.driver_side_complete(size));
    }
    fn kicks(&self) -> u64 {
        self.0.registers.kicks(TX)
    }
}

/// Receives.
pub struct PeerRx(Net);

impl PeerRx {
    pub fn new() -> Self {
        Self(Net::new(RX, 2048))
    }

    #[inline(never)]
    fn driver_side_post(&mut self, size: u64) {
        let Net { card, buffers, .. } = &mut self.0;
        for (buffer, token) in buffers.iter_mut().take(size as usize) {
            // SAFETY: the buffer lives as long as this value, and is left alone until `driver_side_receive`.
            *token = unsafe { card.receive_begin(buffer) }.expect("room");
        }
    }

    #[inline(never)]
    fn driver_side_receive(&mut self, size: u64) {
        let Net { card, buffers, .. } = &mut self.0;
        for (buffer, token) in buffers.iter_mut().take(size as usize) {
            assert_eq!(card.poll_receive(), Some(*token));
            // SAFETY: this is the buffer that `driver_side_post` posted.
            let (at, len) = unsafe { card.receive_complete(*token, buffer) }.expect("a frame");
            assert_eq!(len, FRAME);
            black_box(buffer[at..].as_ptr());
        }
    }
}

impl Part for PeerRx {
    fn batch(&mut self, size: u64) {
        counted(|| self.driver_side_post(size));
        assert_eq!(u64::from(self.0.device.serve()), size);
        counted(|| self.driver_side_receive(size));
    }
    fn kicks(&self) -> u64 {
        self.0.registers.kicks(RX)
    }
}
