//! Malicious StorVSP and NetVSP models: the driver reports a fault of that device, never panics or hangs, and frees no memory that
//! the host may write.

use paravirt_device::{
    BlockDevice, BlockQueue, NetDevice, NetQueue, NetRx, NetTx, Notify, Op, Request, TxMeta,
};
use paravirt_hyperv::Hypervisor;
use paravirt_netvsc::{NetOptions, NetVsc};
use paravirt_platform::{DmaSlice, Platform};
use paravirt_scsi::{ControllerEvent, Options};
use paravirt_storvsc::{StorController, StorOptions, StorTransport};
use paravirt_testhost::{Guest, HvHost, HvOffer, NetVspHost, OfferSettings, StorDrive, StorHost, WireFrame};
use paravirt_vmbus::{Guid, Version, Vmbus};
use std::sync::{Arc, Mutex};
use std::time::Duration;

type Buffer = DmaSlice<Guest>;

/// Changes of a byte.
const CHANGES: [fn(u8) -> u8; 3] = [|_| 0, |_| 0xff, |byte| byte ^ 0x11];

/// A guest whose clock runs fast while it waits, so that deadlines expire soon.
fn machine() -> (Guest, HvHost) {
    let guest = Guest::with(2, true);
    let clock = guest.downgrade();
    guest.attach(move || clock.turn(Duration::from_millis(300)));
    let host = HvHost::new(&guest, HvOffer::least());
    (guest, host)
}

/// Changes byte `at` of message `number`, counting all from the first.
fn change(number: usize, at: usize, by: fn(u8) -> u8) -> impl FnMut(&mut Vec<u8>) + Send + 'static {
    let mut count = 0;
    move |bytes| {
        if count == number {
            bytes.get_mut(at).into_iter().for_each(|byte| *byte = by(*byte));
        }
        count += 1;
    }
}

/// Records the lengths of messages.
fn measure(lens: &Arc<Mutex<Vec<usize>>>) -> impl FnMut(&mut Vec<u8>) + Send + 'static {
    let lens = lens.clone();
    move |bytes| lens.lock().expect("lengths").push(bytes.len())
}

/// Uses all operations of a disk, ignoring errors; checks that every buffer is returned, unless the host did not release it.
fn store(guest: &Guest, host: &HvHost, storage: &StorHost) {
    let channel = host.add(
        guest,
        OfferSettings { interface: paravirt_storvsc::INTERFACE, ..OfferSettings::default() },
        storage.clone(),
    );
    let Ok(hypervisor) = Hypervisor::open(guest) else { return };
    let Ok(vmbus) = Vmbus::connect(&hypervisor, Version::NEWEST) else { return };
    let Some(offer) = vmbus.find(&Guid::default(), 0) else { return };
    let adapter = StorTransport::new(guest, &vmbus, &offer, &StorOptions::default());
    // A reply whose id was changed is passed over: the command meets its deadline, and the bus is reset.
    let options = Options::new(2, 8)
        .with_command_timeout(Duration::from_secs(10))
        .with_reset_timeout(Duration::from_secs(5));
    let Ok(mut controller) = StorController::<Guest, Buffer>::open(guest, adapter, &options) else { return };
    let mut disks = vec![];
    for _ in 0..4 {
        match controller.poll() {
            Some(ControllerEvent::Added(disk)) => disks.push(disk),
            Some(_) => {}
            None => break,
        }
    }
    let mut outstanding = 0;
    for disk in &mut disks {
        let Some(mut queue) = disk.take_queue(0) else { continue };
        let size = disk.info().block_size as usize;
        for tag in 0..4 {
            let into = DmaSlice::alloc(guest, size).expect("memory");
            let deadline = guest.now().saturating_add(Duration::from_secs(1));
            let op = if tag == 3 { Op::Flush } else { Op::Read { lba: tag, into } };
            outstanding += usize::from(queue.submit(Request::new(tag, op).with_deadline(deadline)).is_ok());
        }
        queue.kick();
        for _ in 0..200 {
            match queue.complete() {
                Ok(Some(_)) => outstanding -= 1,
                Ok(None) if outstanding == 0 => break,
                Ok(None) => {
                    guest.relax();
                    let _ = queue.expire(guest.now());
                }
                Err(_) => {
                    outstanding = 0;
                    break;
                }
            }
        }
        assert_eq!(outstanding, 0, "a request did not complete");
        while disk.poll_event().is_some() {}
    }
    host.work(guest, channel);
    let _ = controller.poll();
}

#[test]
fn every_byte_of_storvsp_completions_changed() {
    let drives = || {
        let storage = StorHost::new();
        storage.insert(0, StorDrive::memory(512, vec![1; 64 << 10]));
        storage
    };
    let lens = Arc::new(Mutex::new(vec![]));
    let (guest, host) = machine();
    let storage = drives();
    storage.fault_config(|fault_config| fault_config.mutate = Some(Box::new(measure(&lens))));
    store(&guest, &host, &storage);
    let lens = lens.lock().expect("lengths").clone();
    assert!(lens.len() > 10);
    for (number, len) in lens.iter().enumerate() {
        for at in 0..*len {
            for by in CHANGES {
                let (guest, host) = machine();
                let storage = drives();
                storage.fault_config(|fault_config| {
                    fault_config.mutate = Some(Box::new(change(number, at, by)))
                });
                store(&guest, &host, &storage);
            }
        }
    }
}

/// Uses all operations of a network card, ignoring errors.
fn network(guest: &Guest, host: &HvHost, wire: &NetVspHost) {
    let channel = host.add(
        guest,
        OfferSettings { interface: paravirt_netvsc::INTERFACE, ..OfferSettings::default() },
        wire.clone(),
    );
    let Ok(hypervisor) = Hypervisor::open(guest) else { return };
    let Ok(vmbus) = Vmbus::connect(&hypervisor, Version::NEWEST) else { return };
    let Some(offer) = vmbus.find(&Guid::default(), 0) else { return };
    let options = NetOptions::default().with_queues(2, 1).with_buffers(64 << 10, 64 << 10);
    let Ok(mut card) = NetVsc::<Guest, Buffer>::open(guest, &vmbus, &offer, &options) else { return };
    let Some(mut queue) = card.take_queue(0) else { return };
    let _ = card.set_active_queues(2);
    wire.receive(&[1; 100]);
    wire.receive_on(
        0,
        WireFrame { bytes: vec![2; 300], info: vec![(0, 8), (6, 0x30), (0x8000_0001, 0x701)] },
    );
    wire.set_link(false);
    wire.associate(Some(1));
    host.work(guest, channel);
    for _ in 0..4 {
        let (_, tx) = queue.split();
        if tx.reserve(60) {
            let _ = tx.commit(60, TxMeta::default());
        }
        tx.kick();
        if queue.poll().is_err() {
            break;
        }
        let (rx, tx) = queue.split();
        while let Some(frame) = rx.front() {
            for part in 0..frame.segments {
                let _ = rx.segment(part);
            }
            rx.pop();
        }
        while tx.sent().is_some() {}
        while card.poll_event().is_some() {}
    }
}

#[test]
fn every_byte_of_netvsp_messages_changed() {
    let lens = [(); 2].map(|()| Arc::new(Mutex::new(vec![])));
    let (guest, host) = machine();
    let wire = NetVspHost::new();
    wire.fault_config(|fault_config| {
        fault_config.mutate_nvsp = Some(Box::new(measure(&lens[0])));
        fault_config.mutate_rndis = Some(Box::new(measure(&lens[1])));
    });
    network(&guest, &host, &wire);
    let [nvsp, rndis] = lens.map(|lens| lens.lock().expect("lengths").clone());
    assert!(nvsp.len() > 4 && rndis.len() > 8);
    for (is_rndis, lens) in [(false, nvsp), (true, rndis)] {
        for (number, len) in lens.iter().enumerate() {
            // The payload of a frame is not parsed.
            for at in 0..(*len).min(200) {
                for by in CHANGES {
                    let (guest, host) = machine();
                    let wire = NetVspHost::new();
                    wire.fault_config(|fault_config| match is_rndis {
                        true => fault_config.mutate_rndis = Some(Box::new(change(number, at, by))),
                        false => fault_config.mutate_nvsp = Some(Box::new(change(number, at, by))),
                    });
                    network(&guest, &host, &wire);
                }
            }
        }
    }
}
