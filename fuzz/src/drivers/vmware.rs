//! The drivers of VMware's devices, with the models as hosts whose answers are changed.

use super::{Changes, Frames, Requests, Steps, in_guest, next_change};
use paravirt_device::{BlockDevice, MacAddr, NetDevice, Offloads, ReceiveMode};
use paravirt_platform::DmaSlice;
use paravirt_pvscsi::{PvscsiAdapter, PvscsiController, PvscsiOptions};
use paravirt_scsi::{ControllerEvent, Options};
use paravirt_testhost::{Guest, PvscsiHost, ReceivedMeta, StorDrive, Vmxnet3Host};
use paravirt_vmxnet3::{Vmxnet3, Vmxnet3Options};
use std::time::Duration;

/// The SCSI adapter, with the SCSI layer above it.
pub fn pvscsi_driver(data: &[u8]) {
    in_guest(|guest| pvscsi_in(guest, &mut Steps(data)));
}

fn pvscsi_in(guest: &Guest, steps: &mut Steps<'_>) {
    let changes = Changes::default();
    let host = PvscsiHost::new(guest);
    host.insert(0, StorDrive::memory(512, vec![0; 64 << 10]));
    host.insert(1, StorDrive::memory(4096, vec![0; 64 << 10]));
    let kind = steps.byte();
    host.pci(|pci| pci.messages = u16::from(kind & 3));
    host.faults(|faults| {
        faults.tells_lengths = kind & 4 != 0;
        faults.threshold = (kind & 8 != 0).then_some(u32::from(kind >> 4));
        faults.lacks_messages = kind & 16 != 0;
        faults.targets = (kind & 32 != 0).then_some(u32::from(kind));
    });
    let options = PvscsiOptions::new().with_queue_size(32);
    let Ok(adapter) = PvscsiAdapter::new(guest, host.device(), 0, &options) else { return };
    let opened = PvscsiController::<_, DmaSlice<Guest>>::open(guest, adapter, &Options::new(1, 16));
    let Ok(mut controller) = opened else { return };
    let entries = changes.clone();
    host.faults(|faults| {
        faults.mutate = Some(Box::new(move |bytes| {
            if let Some((at, value)) = next_change(&entries) {
                bytes[at % bytes.len()] = value;
            }
        }));
    });
    let (mut disk, mut queue, mut requests) = (None, None, Requests::default());
    while !steps.0.is_empty() {
        match steps.byte() % 12 {
            0 | 1 => changes.lock().expect("changes").push_back((steps.byte(), steps.byte())),
            2 => {
                let bits = steps.byte();
                host.faults(|faults| {
                    (faults.holds, faults.is_stuck, faults.twice) =
                        (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0);
                    faults.fail.push_back((u16::from(bits >> 3), u16::from(bits & 0x1f)));
                });
            }
            3 => host.release(),
            4 => {
                let (word, value) = (u64::from(steps.byte() % 40), u32::from(steps.word()));
                host.write_state(word, value);
            }
            5 => host.announce(steps.byte() & 15, true),
            6 => match steps.byte() {
                0 => host.pci(|pci| pci.is_gone = true),
                1 => host.pci(|pci| pci.keeps_bus_master = true),
                2 => host.faults(|faults| faults.refuses_reset = true),
                3 => drop(host.remove(0)),
                seconds => guest.turn(Duration::from_secs(u64::from(seconds))),
            },
            7 => {
                if let Some(ControllerEvent::Added(found)) = controller.poll() {
                    drop(queue.take());
                    disk = Some(found);
                    queue = disk.as_mut().and_then(|disk| disk.take_queue(0));
                    requests = Requests::default();
                }
            }
            _ => match &mut queue {
                Some(queue) => requests.call(guest, queue, steps),
                None => drop(disk.as_mut().and_then(BlockDevice::poll_event)),
            },
        }
    }
}

/// The network card.
pub fn vmxnet3_driver(data: &[u8]) {
    in_guest(|guest| vmxnet3_in(guest, &mut Steps(data)));
}

fn vmxnet3_in(guest: &Guest, steps: &mut Steps<'_>) {
    let changes = Changes::default();
    let host = Vmxnet3Host::new(guest);
    let kind = steps.byte();
    host.pci(|pci| pci.messages = if kind & 1 != 0 { 25 } else { u16::from(kind & 2) });
    host.faults(|faults| {
        faults.more_revisions = u32::from(kind & 4) >> 1;
        faults.threshold = u32::from(kind >> 5);
        faults.wants_producer = kind & 8 != 0;
    });
    let pairs = if kind & 16 != 0 { 2 } else { 1 };
    let options = Vmxnet3Options::new().with_queue_size(32).with_pairs(pairs);
    let Ok(mut card) = Vmxnet3::<_, DmaSlice<Guest>>::new(guest, host.device(), &options) else { return };
    let (sent, received) = (changes.clone(), changes.clone());
    let mutate = |words: &mut [u32; 4], (at, value): (usize, u8)| {
        let shift = 8 * (at & 3);
        let word = &mut words[at >> 2 & 3];
        *word = *word & !(0xff << shift) | u32::from(value) << shift;
    };
    host.faults(|faults| {
        let change =
            move |words: &mut [u32; 4]| next_change(&sent).into_iter().for_each(|to| mutate(words, to));
        faults.mutate_tx = Some(Box::new(change));
        let change =
            move |words: &mut [u32; 4]| next_change(&received).into_iter().for_each(|to| mutate(words, to));
        faults.mutate_rx = Some(Box::new(change));
    });
    let mut queues: Vec<_> = (0..pairs).filter_map(|index| card.take_queue(index)).collect();
    let mut frames = Frames::default();
    while !steps.0.is_empty() {
        let step = steps.byte();
        let at = usize::from(step >> 4 & 1);
        match (step & 15, queues.get_mut(at)) {
            (0 | 1, _) => changes.lock().expect("changes").push_back((steps.byte(), steps.byte())),
            (2 | 3, _) => {
                let meta = ReceivedMeta {
                    flags: u32::from(steps.word()) << 8,
                    tag: (step & 32 != 0).then_some(7),
                    coalesced: (step & 64 != 0).then_some((step, 1448)),
                    queue: at,
                };
                host.receive_with(&vec![1; usize::from(steps.word() % 9000)], meta);
            }
            (4, _) => match step >> 5 {
                0 => host.faults(|faults| faults.holds = !faults.holds),
                1 => host.faults(|faults| faults.skips = !faults.skips),
                2 => host.release(),
                3 => host.set_link(steps.byte() & 1 != 0, 10),
                4 => host.fail_queue(at, 1),
                _ => guest.turn(Duration::from_secs(u64::from(steps.byte()))),
            },
            (5, _) => match steps.byte() {
                0 => host.pci(|pci| pci.is_gone = true),
                1 => host.pci(|pci| pci.keeps_bus_master = true),
                2 => host.faults(|faults| faults.refuses = true),
                3 => drop(queues.pop()),
                _ => drop(card.set_offloads(Offloads::all())),
            },
            (6, _) => {
                let _ = (card.poll_event(), card.set_receive_mode(ReceiveMode::Promiscuous));
                let _ = (card.set_multicast(&[MacAddr::default()]), card.set_active_queues(pairs));
            }
            (_, None) => {}
            (choice, Some(queue)) => frames.call(choice - 7, guest, queue, steps),
        }
    }
}
