//! The drivers of virtio devices.

use super::{Frames, PageFrames, Requests, Steps, in_guest, receive_frame, send_slot};
use paravirt_device::{
    Balloon, BlockDevice, Console, Entropy, Input, Leds, NetDevice, NetQueue, Notify, ReceiveMode, Sockets,
};
use paravirt_platform::{DmaSlice, Platform};
use paravirt_scsi::{Controller, ControllerEvent, Options};
use paravirt_testhost::{FakeDevice, Guest, QueueState};
use paravirt_virtio::OpenOptions;
use paravirt_virtio::balloon::VirtioBalloon;
use paravirt_virtio::blk::VirtioBlk;
use paravirt_virtio::console::VirtioConsole;
use paravirt_virtio::features::Features;
use paravirt_virtio::input::VirtioInput;
use paravirt_virtio::net::VirtioNet;
use paravirt_virtio::rng::VirtioRng;
use paravirt_virtio::scsi::ScsiAdapter;
use paravirt_virtio::socket::VirtioSockets;
use paravirt_virtio::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use std::collections::BTreeMap;
use std::time::Duration;

type Buffer = DmaSlice<Guest>;

/// The device: it follows the rings where it is honest.
struct Hostile {
    guest: Guest,
    device: FakeDevice,
    queues: usize,
    /// Per queue: the set-up, and the next entries of the available and of the used ring.
    places: BTreeMap<usize, (u32, u16, u16)>,
    /// Whether the driver may have lost memory: it had no proof that the device stopped.
    was_silent: bool,
}

impl Hostile {
    fn half(&self, address: u64) -> u16 {
        let bytes = self.guest.read(address, 2);
        u16::from_le_bytes([bytes[0], bytes[1]])
    }

    fn queue(&mut self, steps: &mut Steps<'_>) -> Option<(usize, QueueState)> {
        let index = usize::from(steps.byte()) % self.queues;
        let state = self.device.queue(index)?;
        let place = self.places.entry(index).or_default();
        if place.0 != state.generation {
            *place = (state.generation, 0, 0);
        }
        Some((index, state))
    }

    /// Returns the memory of the chain at `head` that the device may write: addresses and lengths.
    fn writable(&self, state: &QueueState, head: u16) -> Vec<(u64, usize)> {
        let (mut table, mut at, mut found) = (state.addresses.desc.0, head, vec![]);
        for _ in 0..32 {
            let bytes = self.guest.read(table + u64::from(at) * 16, 16);
            let address = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes"));
            let len = u32::from_le_bytes(bytes[8..12].try_into().expect("4 bytes"));
            let (flags, next) =
                (u16::from_le_bytes([bytes[12], bytes[13]]), u16::from_le_bytes([bytes[14], bytes[15]]));
            if flags & 4 != 0 {
                (table, at) = (address, 0);
                continue;
            }
            if flags & 2 != 0 {
                found.push((address, len as usize));
            }
            if flags & 1 == 0 {
                break;
            }
            at = next;
        }
        found
    }

    /// Completes the next request with data of the steps; the last byte, a status in many protocols, is often 0.
    fn complete(&mut self, steps: &mut Steps<'_>) -> Option<()> {
        let (index, state) = self.queue(steps)?;
        let size = state.addresses.size;
        let (_, next, used) = self.places[&index];
        if self.device.registers().accepted & Features::RING_PACKED.bits() != 0
            || self.half(state.addresses.driver.0 + 2) == next
        {
            return None;
        }
        let head = self.half(state.addresses.driver.0 + 4 + u64::from(next % size) * 2);
        let (count, extra) = (usize::from(steps.byte() & 63), steps.byte());
        let mut len = 0;
        let memory = self.writable(&state, head);
        for (number, (address, room)) in memory.iter().enumerate() {
            let mut bytes = steps.take(count.min(*room));
            if extra & 1 == 0 && number + 1 == memory.len() {
                bytes.resize(*room, 0);
                bytes[*room - 1] = 0;
            }
            self.guest.write(*address, &bytes);
            len += bytes.len() as u32;
        }
        self.give(&state, index, used, u32::from(head), len.wrapping_add(u32::from(extra >> 6)));
        self.places.entry(index).and_modify(|place| place.1 = next.wrapping_add(1));
        Some(())
    }

    /// Writes an entry of the used ring.
    fn give(&mut self, state: &QueueState, index: usize, used: u16, head: u32, len: u32) {
        let ring = state.addresses.device.0;
        let entry = ring + 4 + u64::from(used % state.addresses.size) * 8;
        self.guest.write(entry, &[head.to_le_bytes(), len.to_le_bytes()].concat());
        self.guest.write(ring + 2, &used.wrapping_add(1).to_le_bytes());
        self.places.entry(index).and_modify(|place| place.2 = used.wrapping_add(1));
    }

    fn step(&mut self, steps: &mut Steps<'_>) {
        match steps.byte() % 16 {
            0..=7 => drop(self.complete(steps)),
            8 => {
                // An entry that was not asked for.
                if let Some((index, state)) = self.queue(steps) {
                    let (head, len, used) = (steps.word(), steps.word(), self.places[&index].2);
                    self.give(&state, index, used, u32::from(head), u32::from(len));
                }
            }
            9 => {
                if let Some((_, state)) = self.queue(steps) {
                    // The memory that the device may write: the used ring, or the ring of a packed queue and its event area.
                    let is_packed = self.device.registers().accepted & Features::RING_PACKED.bits() != 0;
                    let size = u64::from(state.addresses.size);
                    let (base, len) = match (is_packed, steps.byte() & 1 == 0) {
                        (false, _) => (state.addresses.device.0, 6 + 8 * size),
                        (true, false) => (state.addresses.desc.0, 16 * size),
                        (true, true) => (state.addresses.device.0, 4),
                    };
                    let at = u64::from(steps.word()) % len;
                    let bytes = steps.take(4.min((len - at) as usize));
                    self.guest.write(base + at, &bytes);
                }
            }
            10 => {
                let mut registers = self.device.registers();
                let at = usize::from(steps.byte()) % registers.config.len();
                registers.config[at] = steps.byte();
                registers.generation = registers.generation.wrapping_add(1);
            }
            11 => self.device.registers().status |= DeviceStatus::NEEDS_RESET,
            12 => {
                self.was_silent = true;
                let mut registers = self.device.registers();
                match steps.byte() % 4 {
                    0 => registers.is_gone = !registers.is_gone,
                    1 => registers.ignores_reset = !registers.ignores_reset,
                    2 => registers.is_unplugged = !registers.is_unplugged,
                    _ => registers.refuses_features = !registers.refuses_features,
                }
            }
            13 => self.device.raise_line(&self.guest, InterruptStatus::all()),
            14 => self.guest.turn(Duration::from_secs(u64::from(steps.byte()))),
            _ => {}
        }
    }
}

/// Opens a driver on a device with `queues` queues, and alternates steps of the device with calls. `base` are the words of a
/// configuration that the driver accepts, by offset; the steps may replace it.
fn drive<D>(
    data: &[u8],
    device_type: DeviceType,
    queues: usize,
    base: &[(usize, u64)],
    open: impl FnOnce(&Guest, Transport<Guest>, &OpenOptions) -> Option<D>,
    call: impl FnMut(&Guest, &mut D, &mut Steps<'_>),
) {
    in_guest(|guest| drive_in(guest, data, device_type, queues, base, open, call));
}

fn drive_in<D>(
    guest: &Guest,
    data: &[u8],
    device_type: DeviceType,
    queues: usize,
    base: &[(usize, u64)],
    open: impl FnOnce(&Guest, Transport<Guest>, &OpenOptions) -> Option<D>,
    mut call: impl FnMut(&Guest, &mut D, &mut Steps<'_>),
) {
    let mut steps = Steps(data);
    let settings = steps.byte();
    let mut config = vec![0; 512];
    for (at, value) in base {
        config[*at..*at + 8].copy_from_slice(&value.to_le_bytes());
    }
    if settings & 32 != 0 {
        let bytes = steps.take(64);
        config[..bytes.len()].copy_from_slice(&bytes);
    }
    let mut features = u64::MAX;
    if settings & 1 == 0 {
        features &= !Features::RING_PACKED.bits();
    }
    for (bit, feature) in [
        (2, Features::IN_ORDER),
        (4, Features::EVENT_IDX),
        (8, Features::INDIRECT_DESC),
        (16, Features::RING_RESET),
    ] {
        if settings & bit == 0 {
            features &= !feature.bits();
        }
    }
    if settings & 64 != 0 {
        // Features of the device, beside those of the ring.
        features &= !0xff_ffff | u64::from(steps.word()) | u64::from(steps.byte()) << 16;
    }
    let device = FakeDevice::new(device_type, features, &vec![16; queues], &config);
    let transport = device.transport(guest);
    let options = OpenOptions::new().with_queues(2).with_queue_size(16).with_segments(4);
    let mut hostile =
        Hostile { guest: guest.clone(), device, queues, places: BTreeMap::new(), was_silent: false };
    if let Some(mut driver) = open(guest, transport, &options) {
        while !steps.0.is_empty() {
            match steps.byte() & 1 {
                0 => hostile.step(&mut steps),
                _ => call(guest, &mut driver, &mut steps),
            }
        }
        drop(driver);
    }
    assert!(hostile.was_silent || guest.pages() == 0, "{} pages are lost", guest.pages());
    assert_eq!(guest.bound_handlers(), 0, "a handler is bound");
}

/// virtio-blk.
pub fn virtio_blk(data: &[u8]) {
    let mut requests = [Requests::default(), Requests::default()];
    drive(
        data,
        DeviceType::BLOCK,
        2,
        &[
            (0, 4096),
            (8, 4 << 32 | 65536),
            (20, 512),
            (34, 2),
            (36, 1 << 32 | 64),
            (44, 64 << 32 | 1),
            (52, 1),
        ],
        |guest, transport, options| {
            let mut disk = VirtioBlk::<Guest, Buffer>::open(guest, transport, options).ok()?;
            let queues = [disk.take_queue(0), disk.take_queue(1)];
            Some((disk, queues))
        },
        |guest, (disk, queues), steps| match steps.byte() % 8 {
            0 => drop(disk.poll_event()),
            1 if steps.byte() == 0 => drop(queues[1].take()),
            which => {
                let which = usize::from(which & 1);
                if let Some(queue) = &mut queues[which] {
                    requests[which].call(guest, queue, steps);
                }
            }
        },
    );
}

/// virtio-net.
pub fn virtio_net(data: &[u8]) {
    let mut frames = Frames::default();
    drive(
        data,
        DeviceType::NET,
        5,
        &[(0, 1 << 48 | 0x0302_0100_0002), (8, 1500 << 16 | 2)],
        |guest, transport, options| {
            let mut card = VirtioNet::<Guest, Buffer>::open(guest, transport, options).ok()?;
            let queue = card.take_queue(0);
            Some((card, queue))
        },
        |guest, (card, queue), steps| {
            let choice = steps.byte() % 12;
            if choice == 0 {
                let _ = (card.poll_event(), card.set_receive_mode(ReceiveMode::Promiscuous));
                return;
            }
            let Some(queue) = queue else { return };
            match choice {
                1..=3 => frames.poll(queue),
                4 | 5 => receive_frame(queue),
                6 | 7 => send_slot(queue, steps),
                8 => frames.send(guest, queue),
                9 => drop(queue.arm()),
                10 => drop(queue.expire(guest.now())),
                _ => drop(queue.reset()),
            }
        },
    );
}

/// A SCSI host device, with the SCSI layer above it.
pub fn virtio_scsi(data: &[u8]) {
    let mut requests = Requests::default();
    drive(
        data,
        DeviceType::SCSI,
        4,
        &[
            (0, 4 << 32 | 1),
            (8, 8 << 32 | 128),
            (16, 96 << 32 | 16),
            (24, 1 << 48 | 32),
            (28, 255 << 32 | 1 << 16),
        ],
        |guest, transport, options| {
            let adapter = ScsiAdapter::open(guest, transport, options).ok()?;
            let controller = Controller::<_, _, Buffer>::open(guest, adapter, &Options::new(2, 16)).ok()?;
            Some((controller, None, None))
        },
        |guest, (controller, disk, queue), steps| match (steps.byte() % 6, &mut *queue) {
            (0 | 1, _) => {
                if let Some(ControllerEvent::Added(found)) = controller.poll() {
                    *queue = None;
                    *disk = Some(found);
                    *queue = disk.as_mut().and_then(|disk| disk.take_queue(0));
                    requests = Requests::default();
                }
            }
            (2, _) => drop(disk.as_mut().and_then(BlockDevice::poll_event)),
            (_, Some(queue)) => requests.call(guest, queue, steps),
            _ => drop(controller.arm()),
        },
    );
}

/// virtio-console.
pub fn virtio_console(data: &[u8]) {
    drive(
        data,
        DeviceType::CONSOLE,
        2,
        &[(0, 25 << 16 | 80)],
        |g, t, o| VirtioConsole::open(g, t, o).ok(),
        |_, console, steps| match steps.byte() % 4 {
            0 => drop(console.write(&steps.take(40))),
            1 => drop(console.read(&mut [0; 50])),
            2 => drop((console.is_flushed(), console.size())),
            _ => drop(console.arm()),
        },
    );
}

/// virtio-rng.
pub fn virtio_entropy(data: &[u8]) {
    drive(
        data,
        DeviceType::ENTROPY,
        1,
        &[],
        |g, t, o| VirtioRng::open(g, t, o).ok(),
        |_, source, steps| match steps.byte() % 2 {
            0 => drop(source.fill(&mut [0; 50])),
            _ => drop(source.arm()),
        },
    );
}

/// virtio-input.
pub fn virtio_input(data: &[u8]) {
    drive(
        data,
        DeviceType::INPUT,
        2,
        &[],
        |g, t, o| VirtioInput::open(g, t, o).ok(),
        |_, input, steps| match steps.byte() % 3 {
            0 => drop(input.poll()),
            1 => drop(input.set_leds(Leds::default())),
            _ => drop(input.arm()),
        },
    );
}

/// virtio-balloon.
pub fn virtio_balloon(data: &[u8]) {
    let mut frames = PageFrames::default();
    drive(
        data,
        DeviceType::BALLOON,
        5,
        &[(0, 8)],
        |g, t, o| VirtioBalloon::open(g, t, o).ok(),
        |guest, balloon, steps| match steps.byte() % 4 {
            0 | 1 => drop(balloon.poll(&mut frames)),
            2 => drop((balloon.report_free(&mut frames, 8), balloon.expire(guest.now()))),
            _ => drop(balloon.arm()),
        },
    );
}

/// virtio-vsock.
pub fn virtio_sockets(data: &[u8]) {
    let mut known = vec![];
    drive(
        data,
        DeviceType::SOCKET,
        3,
        &[(0, 3)],
        |g, t, o| VirtioSockets::open(g, t, o).ok(),
        |guest, sockets, steps| {
            let choice = steps.byte() % 10;
            let which = usize::from(steps.byte());
            let socket = known.get(which.checked_rem(known.len()).unwrap_or(0)).copied();
            match (choice, socket) {
                (0..=2, _) => drop(sockets.poll()),
                (3, _) => known.extend(sockets.connect(u32::from(steps.byte()))),
                (4, _) => {
                    let _ = sockets.listen(7);
                    known.extend(sockets.accept(7));
                }
                (5, Some(socket)) => drop(sockets.send(socket, &steps.take(60))),
                (6, Some(socket)) => drop(sockets.receive(socket, &mut [0; 80])),
                (7, Some(socket)) => drop(sockets.finish(socket)),
                (8, Some(socket)) => sockets.close(socket),
                _ => drop((sockets.arm(), sockets.expire(guest.now()))),
            }
            known.truncate(32);
        },
    );
}
