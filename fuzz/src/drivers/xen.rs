//! Xen's disks and network cards, and xenstore, with the model as a host whose answers are changed.

use super::{Changes, Frames, Requests, Steps, in_guest, next_change};
use paravirt_blkfront::{BlkFront, BlkFrontOptions};
use paravirt_device::{Agent, BlockDevice, MacAddr, NetDevice, Offloads, PowerRequest, ReceiveMode};
use paravirt_netfront::{NetFront, NetFrontOptions};
use paravirt_platform::{DmaSlice, PageArc};
use paravirt_testhost::{Guest, XenDisk, XenHost, XenReceived};
use paravirt_xen::bus::{self, Address, Class};
use paravirt_xen::{Control, Hypervisor, HypervisorOptions, Store, StoreError, Watch};
use std::time::Duration;

const DISK: Address = Address { class: Class::Block, id: 51712 };
const CARD: Address = Address { class: Class::Net, id: 0 };

fn change(bytes: &mut [u8], changes: &Changes) {
    if let Some((at, value)) = next_change(changes) {
        let len = bytes.len().max(1);
        bytes.get_mut(at % len).into_iter().for_each(|byte| *byte = value);
    }
}

/// Connects to xenstore; with all that a hypervisor can have, or with the least.
fn open(guest: &Guest, host: &XenHost, has_all: bool) -> Option<PageArc<Guest, Store<Guest>>> {
    host.set_fifo(has_all);
    host.set_wide_grants(has_all);
    let options = HypervisorOptions::new().with_wide_grants(has_all);
    Store::open(&Hypervisor::open_with(guest, &options).ok()?).ok()
}

/// Has the answers of backends changed.
fn change_answers(host: &XenHost, changes: &Changes) {
    let changes = changes.clone();
    host.faults(|faults| faults.mutate = Some(Box::new(move |bytes| change(bytes, &changes))));
}

/// What a host does besides answering.
fn disturb(
    guest: &Guest,
    host: &XenHost,
    store: &PageArc<Guest, Store<Guest>>,
    class: &str,
    steps: &mut Steps<'_>,
) {
    let id = if class == "vbd" { DISK.id } else { CARD.id };
    match steps.byte() % 14 {
        0 => host.faults(|faults| faults.holds = !faults.holds),
        1 => host.faults(|faults| faults.keeps_pages = !faults.keeps_pages),
        2 => host.faults(|faults| faults.refuses_close = !faults.refuses_close),
        3 => {
            let claims = u32::from(steps.byte());
            host.faults(|faults| faults.claims = claims);
        }
        4 => host.faults(|faults| faults.conflicts = 1),
        5 => host.keep_mapped(u32::from(steps.word())),
        6 => host.remove(class, id),
        7 => {
            let node = ["sectors", "sector-size", "info", "state", "online", "carrier"]
                [usize::from(steps.byte() % 6)];
            let value = String::from_utf8_lossy(&steps.take(6)).into_owned();
            host.set(&format!("/local/domain/0/backend/{class}/1/{id}/{node}"), &value);
        }
        8 => {
            host.set_resumes(steps.byte() & 1 != 0);
            if store.hypervisor().suspend() == Ok(true) {
                let _ = store.resume();
            }
        }
        9 => host.run(),
        _ => guest.turn(Duration::from_secs(u64::from(steps.byte()))),
    }
}

/// A disk.
pub fn blkfront_driver(data: &[u8]) {
    in_guest(|guest| blkfront_in(guest, &mut Steps(data)));
}

fn blkfront_in(guest: &Guest, steps: &mut Steps<'_>) {
    let host = XenHost::new(guest);
    let kind = steps.byte();
    let mut disk = XenDisk::new(vec![0; 64 << 10]);
    (disk.lacks_flush, disk.has_discard, disk.is_read_only) = (kind & 1 != 0, kind & 2 != 0, kind & 4 != 0);
    disk.block_size = if kind & 8 != 0 { 4096 } else { 512 };
    if kind & 16 != 0 {
        disk = disk.with("feature-max-indirect-segments", "64").with("max-ring-page-order", "1");
    }
    if kind & 32 != 0 {
        disk = disk.with("multi-queue-max-queues", "2");
    }
    let is_persistent = kind & 64 != 0;
    if is_persistent {
        disk = disk.with("feature-persistent", "1");
    }
    host.add_disk(DISK.id, disk);
    let Some(store) = open(guest, &host, kind & 128 != 0) else { return };
    let options =
        BlkFrontOptions::new().with_queues(2).with_requests(64).with_persistent_grants(is_persistent);
    let Ok(mut disk) = BlkFront::<_, DmaSlice<Guest>>::open(&store, DISK, &options) else { return };
    let changes = Changes::default();
    change_answers(&host, &changes);
    let mut queues: Vec<_> = (0..2).filter_map(|index| disk.take_queue(index)).collect();
    let mut requests: Vec<Requests> = queues.iter().map(|_| Requests::default()).collect();
    while !steps.0.is_empty() {
        let step = steps.byte();
        let at = usize::from(step >> 4 & 1);
        match (step & 15, queues.get_mut(at), requests.get_mut(at)) {
            (0 | 1, ..) => changes.lock().expect("changes").push_back((steps.byte(), steps.byte())),
            (2 | 3, ..) => disturb(guest, &host, &store, "vbd", steps),
            (4, ..) => drop(disk.poll_event()),
            (5, ..) if step & 0xc0 == 0xc0 => {
                queues.truncate(at);
                requests.truncate(at);
            }
            (_, Some(queue), Some(requests)) => requests.call(guest, queue, steps),
            _ => {}
        }
    }
}

/// A network card.
pub fn netfront_driver(data: &[u8]) {
    in_guest(|guest| netfront_in(guest, &mut Steps(data)));
}

fn netfront_in(guest: &Guest, steps: &mut Steps<'_>) {
    let host = XenHost::new(guest);
    let kind = steps.byte();
    let all = [
        ("feature-sg", "1"),
        ("feature-gso-tcpv4", "1"),
        ("feature-gso-tcpv6", "1"),
        ("multi-queue-max-queues", "2"),
    ];
    let mut offered = all.get(..usize::from(kind % 5)).unwrap_or_default().to_vec();
    if kind & 64 != 0 {
        offered.extend([("feature-multicast-control", "1"), ("feature-split-event-channels", "1")]);
    }
    host.add_card(CARD.id, &offered);
    let Some(store) = open(guest, &host, kind & 128 != 0) else { return };
    let options = NetFrontOptions::new().with_pairs(2).with_frames(32);
    let Ok(mut card) = NetFront::<_, DmaSlice<Guest>>::open(&store, CARD, &options) else { return };
    let changes = Changes::default();
    change_answers(&host, &changes);
    let mut queues: Vec<_> = (0..2).filter_map(|index| card.take_queue(index)).collect();
    let mut frames = Frames::default();
    while !steps.0.is_empty() {
        let step = steps.byte();
        let at = usize::from(step >> 4 & 1);
        match (step & 15, queues.get_mut(at)) {
            (0 | 1, _) => changes.lock().expect("changes").push_back((steps.byte(), steps.byte())),
            (2 | 3, _) => {
                let how = XenReceived {
                    flags: u16::from(steps.byte()),
                    segmentation: (step & 64 != 0).then_some((1448, step >> 4)),
                    offset: u16::from(steps.byte()),
                    piece: usize::from(steps.word() % 4096),
                };
                host.receive(CARD.id, &vec![1; usize::from(steps.word() % 9000)], &how);
            }
            (4, _) => disturb(guest, &host, &store, "vif", steps),
            (5, _) if step & 0xc0 == 0xc0 => drop(queues.pop()),
            (6, _) => {
                let _ = (card.poll_event(), card.set_active_queues(1 + u16::from(step >> 7)));
                let mode = if step & 64 == 0 { ReceiveMode::Filtered } else { ReceiveMode::AllMulticast };
                let address = MacAddr([1, 0, 0x5e, 0, 0, step]);
                let _ = (card.set_multicast(&[address; 3]), card.set_receive_mode(mode));
                let _ = card.set_offloads(Offloads::from_bits_truncate(u32::from(steps.word()) << 4));
            }
            (_, None) => {}
            (choice, Some(queue)) => frames.call(choice.wrapping_sub(7), guest, queue, steps),
        }
    }
}

/// The messages of xenstore, in which bytes are changed.
pub fn xenstore_driver(data: &[u8]) {
    in_guest(|guest| xenstore_in(guest, &mut Steps(data)));
}

struct Accepts;

impl Agent for Accepts {
    fn power(&mut self, _: PowerRequest, _: bool) -> bool {
        true
    }
}

fn xenstore_in(guest: &Guest, steps: &mut Steps<'_>) {
    let host = XenHost::new(guest);
    let changes = Changes::default();
    let messages = changes.clone();
    host.faults(|faults| faults.mutate_store = Some(Box::new(move |message| change(message, &messages))));
    while !steps.0.is_empty() {
        // A malformed message takes a connection out of service: another one takes its place.
        changes.lock().expect("changes").clear();
        let Some(store) = open(guest, &host, false) else { return };
        use_store(&host, &store, &changes, steps);
    }
}

/// Uses a connection until it is out of service.
fn use_store(host: &XenHost, store: &PageArc<Guest, Store<Guest>>, changes: &Changes, steps: &mut Steps<'_>) {
    let (mut watches, control) = (vec![], Control::open(store));
    while !steps.0.is_empty() {
        match steps.byte() % 12 {
            0..=2 => changes.lock().expect("changes").push_back((steps.byte(), steps.byte())),
            3 => {
                let (node, value) = (steps.byte(), String::from_utf8_lossy(&steps.take(12)).into_owned());
                let path =
                    ["device/vbd/1/state", "device/vif", "control/shutdown", "some"][usize::from(node & 3)];
                host.set(path, &value);
            }
            4 => {
                if let Err(StoreError::Faulted(_)) = store.number(format_args!("some")) {
                    return;
                }
            }
            5 => drop(store.text::<16>(format_args!("device/vif"))),
            6 => drop(store.write(format_args!("some/{}", steps.byte()), format_args!("{}", steps.word()))),
            7 => watches.extend(Watch::new(store, format_args!("some")).ok()),
            8 => drop(watches.pop()),
            9 => drop(bus::devices(store, |address| drop(format!("{address}")))),
            10 => {
                if let Ok(control) = &control {
                    control.serve(&mut Accepts);
                }
            }
            _ => {
                store.poll();
                let _ = (store.arm(), watches.iter().filter(|watch: &&Watch<Guest>| watch.take()).count());
            }
        }
    }
}
