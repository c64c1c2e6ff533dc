//! The fault matrix: each message of each protocol dropped, delayed, sent twice, reordered and refused, and what the drivers make of it.
//!
//! The table is `docs/faults.md`. With `UPDATE_FAULTS=1` the test writes it, otherwise it compares.

use core::fmt::Write;
use core::time::Duration;
use paravirt_device::{
    BlockDevice, BlockQueue, IoError, NetDevice, NetQueue, NetRx, NetTx, Notify, Op, Request, TxMeta,
};
use paravirt_hyperv::Hypervisor;
use paravirt_netvsc::{NetOptions, NetVsc};
use paravirt_platform::{DmaSlice, Instant, Platform};
use paravirt_scsi::{ControllerEvent, Options};
use paravirt_storvsc::{StorController, StorOptions, StorTransport};
use paravirt_testhost::{
    BlkHost, Guest, HvHost, HvOffer, NetVspHost, OfferSettings, Ring, Said, StorDrive, StorHost, Verdict,
};
use paravirt_virtio::OpenOptions;
use paravirt_virtio::blk::VirtioBlk;
use paravirt_virtio::transport::DeviceStatus;
use paravirt_vmbus::{Guid, Offer, Version, Vmbus};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

type Buffer = DmaSlice<Guest>;

/// What happens to a message, by the column of the table.
const COLUMNS: [(&str, Option<Verdict>); 5] = [
    ("dropped", Some(Verdict::Drop)),
    ("20 s late", Some(Verdict::Late)),
    ("twice", Some(Verdict::Twice)),
    ("after the next", Some(Verdict::AfterNext)),
    // Where its status is, the message says.
    ("refused", None),
];

/// Returns the name of a message, and how the host refuses by it: where its status is, and the value of a failure.
fn described(said: Said<'_>, is_storage: bool) -> (String, Option<Verdict>) {
    let (bytes, is_packet) = match said {
        Said::Message(bytes) => (bytes, false),
        Said::Packet { payload, .. } => (payload, true),
    };
    let word = |at: usize| {
        bytes.get(at..at + 4).map_or(0, |word| u32::from_le_bytes(word.try_into().expect("4 bytes")))
    };
    let refuse = |at, value| Some(Verdict::Refuse(at, value));
    if let Said::Packet { is_transfer: true, .. } = said {
        return ("RNDIS: a message of the host".into(), None);
    }
    let (name, refused) = match (is_packet, is_storage, word(0)) {
        (false, _, 1) => ("VMBus: OFFER_CHANNEL", None),
        (false, _, 4) => ("VMBus: ALL_OFFERS_DELIVERED", None),
        (false, _, 6) => ("VMBus: OPEN_CHANNEL_RESULT", refuse(16, 1)),
        (false, _, 10) => ("VMBus: GPADL_CREATED", refuse(16, 1)),
        (false, _, 12) => ("VMBus: GPADL_TORNDOWN", None),
        (false, _, 15) => ("VMBus: VERSION_RESPONSE", refuse(8, 0)),
        (false, _, 17) => ("VMBus: UNLOAD_RESPONSE", None),
        (false, _, kind) => return (format!("VMBus: message {kind}"), None),
        (true, true, _) => ("StorVSP: COMPLETE_IO", refuse(8, 0xc000_0001)),
        (true, false, 2) => ("NVSP: INIT_COMPLETE", refuse(12, 2)),
        (true, false, 102) => ("NVSP: SEND_RECEIVE_BUFFER_COMPLETE", refuse(4, 2)),
        (true, false, 105) => ("NVSP: SEND_SEND_BUFFER_COMPLETE", refuse(4, 2)),
        (true, false, 108) => ("NVSP: SEND_RNDIS_PACKET_COMPLETE", refuse(4, 2)),
        (true, false, kind) => return (format!("NVSP: message {kind}"), None),
    };
    (name.into(), refused)
}

/// The steps of the initialisation of StorVSP, in order; what follows are commands.
const STORVSP: [&str; 4] =
    ["BEGIN_INITIALIZATION", "QUERY_PROTOCOL_VERSION", "QUERY_PROPERTIES", "END_INITIALIZATION"];

/// A run: what was said, by name, and the number of the message to which something happens.
#[derive(Default)]
struct Log {
    names: Vec<(String, Option<Verdict>)>,
    packets: usize,
}

/// A guest whose clock runs fast while it waits, and a host that sends what it holds back after 20 seconds.
fn machine(target: Option<(usize, Option<Verdict>)>, is_storage: bool) -> (Guest, HvHost, Arc<Mutex<Log>>) {
    let guest = Guest::with(1, true);
    let host = HvHost::new(&guest, HvOffer::least());
    let log = Arc::new(Mutex::new(Log::default()));
    let (clock, late, waits) = (guest.downgrade(), host.clone(), AtomicU64::new(0));
    guest.attach(move || {
        clock.turn(Duration::from_millis(100));
        if waits.fetch_add(1, Ordering::Relaxed) % 200 == 199 {
            clock.with(|guest| late.release_late(guest));
        }
    });
    let seen = log.clone();
    host.faults(&guest, |faults| {
        faults.judge = Some(Box::new(move |said| {
            let mut log = seen.lock().expect("the log");
            let (mut name, refused) = described(said, is_storage);
            if is_storage && name.starts_with("StorVSP") {
                name = STORVSP
                    .get(log.packets)
                    .map_or_else(|| "StorVSP: a command".into(), |step| format!("StorVSP: {step}"));
                log.packets += 1;
            }
            let number = log.names.len();
            log.names.push((name, refused));
            match target {
                Some((at, verdict)) if at == number => verdict.or(refused).unwrap_or(Verdict::Pass),
                _ => Verdict::Pass,
            }
        }));
    });
    (guest, host, log)
}

/// Says how a run ended, and whether memory was kept from the kernel.
fn outcome(result: Result<(), String>, waited: Duration, pages: u64) -> String {
    let mut text = match result {
        Ok(()) if waited > Duration::from_secs(5) => "works, after a wait".into(),
        Ok(()) => "works".into(),
        Err(error) => error,
    };
    if pages > 0 {
        text += "; memory is kept";
    }
    text
}

fn failed(step: &str, error: impl core::fmt::Display) -> String {
    format!("{step}: {error}")
}

/// Waits for the offer of the device: offers that come late are those of hot-added devices.
fn wait_for_offer(guest: &Guest, vmbus: &Vmbus<Guest>) -> Result<Offer, String> {
    for _ in 0..1000 {
        if let Some(offer) = vmbus.find(&Guid([0; 16]), 0) {
            return Ok(offer);
        }
        guest.relax();
    }
    Err("connect: no offer".into())
}

/// Ends a run that began at `start`: says how it ended, and what the host said.
fn finish(
    guest: &Guest,
    host: &HvHost,
    log: &Mutex<Log>,
    start: Instant,
    result: Result<(), String>,
) -> (String, Log) {
    let text = outcome(result, guest.now().since(start), guest.pages());
    host.faults(guest, |faults| faults.judge = None);
    (text, std::mem::take(&mut *log.lock().expect("the log")))
}

/// Connects, opens a disk, reads a block, and takes everything down.
fn storage(target: Option<(usize, Option<Verdict>)>) -> (String, Log) {
    let (guest, host, log) = machine(target, true);
    let storage = StorHost::new();
    storage.insert(0, StorDrive::memory(512, vec![7; 1 << 16]));
    host.add(&guest, OfferSettings::new(paravirt_storvsc::INTERFACE), storage.clone());
    let start = guest.now();
    let run = || -> Result<(), String> {
        let hypervisor = Hypervisor::open(&guest).map_err(|e| failed("hypervisor", e))?;
        let vmbus = Vmbus::connect(&hypervisor, Version::NEWEST).map_err(|e| failed("connect", e))?;
        let offer = wait_for_offer(&guest, &vmbus)?;
        let transport = StorTransport::new(&guest, &vmbus, &offer, &StorOptions::default());
        let mut controller = StorController::<Guest, Buffer>::open(&guest, transport, &Options::new(1, 16))
            .map_err(|e| failed("open", e))?;
        let mut disk = None;
        for _ in 0..8 {
            if let Some(ControllerEvent::Added(found)) = controller.poll() {
                disk = Some(found);
                break;
            }
        }
        let mut disk = disk.ok_or("scan: no disk")?;
        let mut queue = disk.take_queue(0).ok_or("open: no queue")?;
        let buffer = DmaSlice::alloc(&guest, 512).map_err(|e| failed("read", e))?;
        let deadline = guest.now().saturating_add(Duration::from_secs(120));
        let request = Request::new(1, Op::Read { lba: 0, into: buffer }).with_deadline(deadline);
        queue.submit(request).map_err(|e| failed("read", e.reason))?;
        queue.kick();
        let done = loop {
            if let Some(done) = queue.complete().map_err(|fault| failed("read", fault))? {
                break done;
            }
            guest.relax();
            queue.expire(guest.now()).map_err(|fault| failed("read", fault))?;
        };
        match done.result {
            Ok(()) if done.buffer.as_ref().is_some_and(|buffer| buffer.bytes() == [7; 512]) => {}
            Ok(()) => return Err("read: WRONG DATA".into()),
            Err(IoError::Aborted) => return Err("read: aborted by its deadline".into()),
            Err(error) => return Err(failed("read", error)),
        }
        drop((queue, disk, controller));
        vmbus.unload().map_err(|e| failed("unload", e))
    };
    let result = run();
    finish(&guest, &host, &log, start, result)
}

/// Connects, opens a network card, sends and receives a frame, and takes everything down.
fn network(target: Option<(usize, Option<Verdict>)>) -> (String, Log) {
    let (guest, host, log) = machine(target, false);
    let wire = NetVspHost::new();
    let channel = host.add(&guest, OfferSettings::new(paravirt_netvsc::INTERFACE), wire.clone());
    let start = guest.now();
    let run = || -> Result<(), String> {
        let hypervisor = Hypervisor::open(&guest).map_err(|e| failed("hypervisor", e))?;
        let vmbus = Vmbus::connect(&hypervisor, Version::NEWEST).map_err(|e| failed("connect", e))?;
        let offer = wait_for_offer(&guest, &vmbus)?;
        let options = NetOptions::default().with_buffers(64 << 10, 64 << 10);
        let mut card =
            NetVsc::<Guest, Buffer>::open(&guest, &vmbus, &offer, &options).map_err(|e| failed("open", e))?;
        let mut queue = card.take_queue(0).ok_or("open: no queue")?;
        let (_, tx) = queue.split();
        if !tx.reserve(60) {
            return Err("send: no room".into());
        }
        tx.slot().get_mut(..60).ok_or("send: no slot")?.fill(1);
        tx.commit(60, TxMeta::new()).map_err(|e| failed("send", e))?;
        tx.kick();
        wire.receive(&[9; 60]);
        let mut has_received = false;
        for _ in 0..400 {
            host.work(&guest, channel);
            queue.poll().map_err(|fault| failed("receive", fault))?;
            if queue.split().0.front().is_some() {
                has_received = true;
                break;
            }
            guest.relax();
        }
        if wire.take_sent() != [vec![1; 60]] {
            return Err("send: the frame was not sent".into());
        }
        if !has_received {
            return Err("receive: the frame is lost".into());
        }
        queue.split().0.pop();
        queue.split().1.kick();
        drop((queue, card));
        vmbus.unload().map_err(|e| failed("unload", e))
    };
    let result = run();
    finish(&guest, &host, &log, start, result)
}

/// A run of a device on VMBus, with something that happens to one message.
type Scenario = fn(Option<(usize, Option<Verdict>)>) -> (String, Log);

/// Appends a row for the first message of each name, and for the last one of each name that occurs often.
fn rows(table: &mut String, scenario: Scenario, only: &[&str]) {
    let (plain, log) = scenario(None);
    assert_eq!(plain, "works", "without a fault");
    let mut known: Vec<&str> = vec![];
    for (number, (name, refused)) in log.names.iter().enumerate() {
        let is_last = log.names.iter().rposition(|(other, _)| other == name) == Some(number);
        let is_first = !known.contains(&name.as_str());
        if !(is_first || is_last) || !only.iter().any(|only| name.starts_with(only)) {
            continue;
        }
        let which = match (is_first, is_last) {
            (true, true) => "",
            (true, false) => ", the first",
            _ => ", the last",
        };
        known.push(name);
        let mut cells = vec![];
        for (_, verdict) in COLUMNS {
            cells.push(match verdict.or(*refused) {
                Some(verdict) => scenario(Some((number, Some(verdict)))).0,
                None => "–".into(),
            });
        }
        writeln!(table, "| {name}{which} | {} |", cells.join(" | ")).expect("a string");
    }
}

/// What a virtio device does at a point of its life.
type Fault = fn(&BlkHost);

/// Opens a disk, reads a block, and closes it; `before` happens before the driver opens it, `during` while a request is in flight.
fn virtio(before: Option<Fault>, during: Option<Fault>) -> String {
    let guest = Guest::new();
    let clock = guest.downgrade();
    guest.attach(move || clock.turn(Duration::from_millis(100)));
    let host = BlkHost::new(&guest, Ring::Split, 64);
    if let Some(fault) = before {
        fault(&host);
    }
    let start = guest.now();
    let run = || -> Result<(), String> {
        let options = OpenOptions::new().with_queue_size(16).with_segments(4);
        let mut disk = VirtioBlk::<Guest, Buffer>::open(&guest, host.transport(), &options)
            .map_err(|e| failed("open", e))?;
        let mut queue = disk.take_queue(0).ok_or("open: no queue")?;
        let buffer = DmaSlice::alloc(&guest, 512).map_err(|e| failed("read", e))?;
        let deadline = guest.now().saturating_add(Duration::from_secs(30));
        queue
            .submit(Request::new(1, Op::Read { lba: 0, into: buffer }).with_deadline(deadline))
            .map_err(|e| failed("read", e.reason))?;
        if let Some(fault) = during {
            fault(&host);
        }
        queue.kick();
        for _ in 0..1000 {
            guest.relax();
            while disk.poll_event().is_some() {}
            if let Some(done) = queue.complete().map_err(|fault| failed("read", fault))? {
                return done.result.map_err(|error| failed("read", error));
            }
            queue.expire(guest.now()).map_err(|fault| failed("read", fault))?;
        }
        Err("read: never completed".into())
    };
    let result = run();
    outcome(result, guest.now().since(start), guest.pages())
}

fn virtio_rows(table: &mut String) {
    let needs_reset: Fault = |host| host.device().registers().status |= DeviceStatus::NEEDS_RESET;
    let cases: [(&str, Fault); 6] = [
        ("FEATURES_OK does not stick", |host| host.device().registers().refuses_features = true),
        ("a reset is not confirmed", |host| host.device().registers().ignores_reset = true),
        ("the registers read as all ones, and the bus reports the device removed", |host| {
            host.device().registers().is_gone = true;
        }),
        ("the registers read as all ones, and the bus reports nothing", |host| {
            let mut registers = host.device().registers();
            (registers.is_gone, registers.is_unplugged) = (true, false);
        }),
        ("NEEDS_RESET", needs_reset),
        ("queue sizes cannot be set", |host| host.device().registers().ignores_sizes = true),
    ];
    for (name, fault) in cases {
        let (before, during) = (virtio(Some(fault), None), virtio(None, Some(fault)));
        writeln!(table, "| {name} | {before} | {during} |").expect("a string");
    }
}

#[test]
fn every_message_of_every_protocol_may_fail() {
    let mut table = String::from(
        "# The fault matrix\n\n\
         Generated by `crates/testhost/tests/faults.rs` (`UPDATE_FAULTS=1 cargo test -p paravirt-testhost --test faults`), which also\n\
         compares it. In each cell, one message of the host has this fate and everything else works. The guest connects, opens the\n\
         device, transfers data and takes everything down; timeouts are the defaults. \"works\" means that data arrived and were right.\n\
         \"memory is kept\" means that the driver leaked what the host did not release.\n",
    );
    let head = COLUMNS.map(|(name, _)| name).join(" | ");
    let lines = "|---".repeat(COLUMNS.len() + 1);
    write!(table, "\n## A disk on VMBus\n\n| message | {head} |\n{lines}|\n").expect("a string");
    rows(&mut table, storage, &["VMBus", "StorVSP"]);
    write!(table, "\n## A network card on VMBus\n\n| message | {head} |\n{lines}|\n").expect("a string");
    rows(&mut table, network, &["NVSP", "RNDIS"]);
    table += "\n## A virtio disk\n\n| the device | before it is opened | while a request is in flight |\n|---|---|---|\n";
    virtio_rows(&mut table);
    assert!(!table.contains("WRONG DATA"), "{table}");
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/faults.md");
    if std::env::var_os("UPDATE_FAULTS").is_some() {
        std::fs::write(path, &table).expect("docs/faults.md");
    }
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    assert!(kept == table, "docs/faults.md differs; write it with UPDATE_FAULTS=1. It would be:\n{table}");
}
