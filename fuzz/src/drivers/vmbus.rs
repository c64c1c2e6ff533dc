//! The drivers of devices on VMBus, with the models as hosts whose answers are changed.

use super::{Frames, Requests, Steps, in_guest, receive_frame, send_slot};
use paravirt_device::{BlockDevice, NetDevice, Notify, ReceiveMode};
use paravirt_hyperv::Hypervisor;
use paravirt_netvsc::{NetOptions, NetVsc};
use paravirt_platform::{DmaSlice, PageArc, Platform};
use paravirt_scsi::{ControllerEvent, Options};
use paravirt_storvsc::{StorController, StorOptions, StorTransport};
use paravirt_testhost::{Guest, HvHost, HvOffer, NetVspHost, OfferSettings, StorDrive, StorHost};
use paravirt_vmbus::{Version, Vmbus};
use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

type Buffer = DmaSlice<Guest>;

/// Changes that the next messages undergo: the position of a byte, and its value.
pub(super) type Changes = Arc<Mutex<VecDeque<(u8, u8)>>>;

/// Applies the next change, if there is one.
fn change(changes: &Changes) -> impl FnMut(&mut Vec<u8>) + Send + use<> {
    let changes = changes.clone();
    move |bytes| {
        let Some((at, value)) = changes.lock().expect("changes").pop_front() else { return };
        match bytes.len() {
            0 => {}
            len if at == 255 => bytes.truncate(usize::from(value) % len),
            len => bytes[usize::from(at) % len] = value,
        }
    }
}

/// A step of the bus: messages are changed, rings are scribbled on, the device is removed.
pub(super) fn step(guest: &Guest, host: &HvHost, channel: u32, changes: &Changes, steps: &mut Steps<'_>) {
    match steps.byte() % 10 {
        0..=4 => host.work(guest, channel),
        5 | 6 => changes.lock().expect("changes").push_back((steps.byte(), steps.byte())),
        7 => {
            let (at, value) = (usize::from(steps.byte()), u32::from(steps.word()));
            host.scribble(guest, channel, |control, data| match at & 1 {
                0 => control[at >> 1 & 31].store(value, Ordering::SeqCst),
                _ => data[at % data.len()].store(u64::from(value), Ordering::SeqCst),
            });
        }
        8 if steps.byte() == 0 => host.rescind(guest, channel),
        _ => guest.turn(Duration::from_secs(u64::from(steps.byte()))),
    }
}

/// The connection, and the hypervisor below it.
pub(super) type Connection = (Vmbus<Guest>, PageArc<Guest, Hypervisor<Guest>>);

/// Connects to a host with one device.
pub(super) fn connect(guest: &Guest, host: &HvHost, changes: &Changes) -> Option<Connection> {
    let hypervisor = Hypervisor::open(guest).ok()?;
    let vmbus = Vmbus::connect(&hypervisor, Version::NEWEST).ok()?;
    let messages = change(changes);
    host.faults(guest, |faults| faults.mutate = Some(Box::new(messages)));
    Some((vmbus, hypervisor))
}

/// storvsc, with the SCSI layer above it.
pub fn storvsc_driver(data: &[u8]) {
    in_guest(|guest| storvsc_in(guest, &mut Steps(data)));
}

fn storvsc_in(guest: &Guest, steps: &mut Steps<'_>) {
    let changes = Changes::default();
    let host = HvHost::new(guest, HvOffer::least());
    let storage = StorHost::new();
    storage.insert(0, StorDrive::memory(512, vec![0; 64 << 10]));
    storage.insert(1, StorDrive::memory(4096, vec![0; 64 << 10]));
    let settings = OfferSettings::new(paravirt_storvsc::INTERFACE);
    let channel = host.add(guest, settings, storage.clone());
    let Some((vmbus, hypervisor)) = connect(guest, &host, &changes) else { return };
    let mut requests = Requests::default();
    if let Some(offer) = vmbus.find(&settings.instance, 0) {
        let transport = StorTransport::new(guest, &vmbus, &offer, &StorOptions::default());
        let opened = StorController::<Guest, Buffer>::open(guest, transport, &Options::new(1, 16));
        let packets = change(&changes);
        storage.fault_config(|config| config.mutate = Some(Box::new(packets)));
        if let Ok(mut controller) = opened {
            let (mut disk, mut queue) = (None, None);
            while !steps.0.is_empty() {
                match steps.byte() % 8 {
                    0 | 1 => step(guest, &host, channel, &changes, steps),
                    2 => {
                        let bits = steps.byte();
                        storage.fault_config(|config| {
                            (config.holds, config.reset_aborts) = (bits & 1 != 0, bits & 2 != 0);
                            config.busy = u32::from(bits >> 6);
                            config.fail.push_back((bits >> 2 & 15, bits >> 6));
                        });
                    }
                    3 => storage.release(),
                    4 => {
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
    }
    drop((vmbus, hypervisor));
}

/// netvsc.
pub fn netvsc_driver(data: &[u8]) {
    in_guest(|guest| netvsc_in(guest, &mut Steps(data)));
}

fn netvsc_in(guest: &Guest, steps: &mut Steps<'_>) {
    let changes = Changes::default();
    let wire = NetVspHost::new();
    let (host, channel) = HvHost::with_device(guest, paravirt_netvsc::INTERFACE, wire.clone());
    let Some((vmbus, hypervisor)) = connect(guest, &host, &changes) else { return };
    let mut frames = Frames::default();
    let options = NetOptions::default().with_buffers(64 << 10, 64 << 10).with_ring_pages(5);
    if let Some(offer) = vmbus.find(&paravirt_vmbus::Guid([0; 16]), 0)
        && let Ok(mut card) = NetVsc::<Guest, Buffer>::open(guest, &vmbus, &offer, &options)
        && let Some(mut queue) = card.take_queue(0)
    {
        let (nvsp, rndis) = (change(&changes), change(&changes));
        wire.fault_config(|config| {
            config.mutate_nvsp = Some(Box::new(nvsp));
            config.mutate_rndis = Some(Box::new(rndis));
        });
        while !steps.0.is_empty() {
            match steps.byte() % 16 {
                0..=2 => step(guest, &host, channel, &changes, steps),
                3 | 4 => wire.receive(&vec![1; usize::from(steps.word() % 1514)]),
                5 => wire.fault_config(|config| config.holds = !config.holds),
                6 => wire.set_link(steps.byte() & 1 != 0),
                7 => drop((card.poll_event(), card.set_receive_mode(ReceiveMode::Promiscuous))),
                8..=10 => frames.poll(&mut queue),
                11 => receive_frame(&mut queue),
                12 => send_slot(&mut queue, steps),
                13 => frames.send(guest, &mut queue),
                14 => drop(queue.arm()),
                _ => drop(queue.expire(guest.now())),
            }
        }
    }
    drop((vmbus, hypervisor));
}
