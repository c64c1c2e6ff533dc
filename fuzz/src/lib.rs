//! Fuzz targets as functions: `fuzz_targets/` has a program for cargo-fuzz for each, and the program `replay` runs them on a stable
//! toolchain with their corpus and seeded mutations.
//!
//! ```
//! paravirt_fuzz::command_line(b"virtio_mmio.device=4K@0xd0000000:5");
//! ```

use paravirt_device::{HeldPages, PageRange};
use paravirt_firmware::device_tree::{self as trees, DeviceTree};
use paravirt_firmware::{PhysicalMemory, aml as scan, command_line as words, fadt, mcfg, tables};
use paravirt_pci::{BarRange, MsiCapability, MsixCapability, capabilities};
use paravirt_platform::{Direction, DmaSlice};
use paravirt_testhost::Guest;
use paravirt_virtio::blk::config as blk;
use paravirt_virtio::net::{config as net, header};
use paravirt_virtio::queue::{Parts, QueueConfig, Quiesced, Ring as _, RingFormat, VirtQueue};
use paravirt_virtio::transport::pci_caps as caps;
use paravirt_vmbus_ring::{ArrayRing, Incoming, Kind, Outgoing, Packet, RingError, RingMemory};
use std::collections::{BTreeSet, VecDeque};
use std::hint::black_box;
use std::sync::atomic::Ordering;

pub mod drivers;

/// A fuzz target: panics if the code under test is wrong.
pub type Target = fn(&[u8]);

/// All targets, by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("split_used", split_used),
    ("packed_ring", packed_ring),
    ("pci_caps", pci_caps),
    ("acpi_tables", acpi_tables),
    ("aml", aml),
    ("device_tree", device_tree),
    ("command_line", command_line),
    ("device_config", device_config),
    ("vmbus_ring", vmbus_ring),
    ("ring_pair", ring_pair),
    ("gpa_ranges", gpa_ranges),
    ("vmbus_message", vmbus_message),
    ("dynamic_memory", dynamic_memory),
    ("storvsp_packet", storvsp_packet),
    ("scsi_sense", scsi_sense),
    ("scsi_data", scsi_data),
    ("nvsp_message", nvsp_message),
    ("rndis_message", rndis_message),
    ("integration_message", integration_message),
    ("input_message", input_message),
    ("hid_reports", hid_reports),
    ("socket_packet", socket_packet),
    ("virtio_blk", drivers::virtio_blk),
    ("virtio_net", drivers::virtio_net),
    ("virtio_scsi", drivers::virtio_scsi),
    ("virtio_console", drivers::virtio_console),
    ("virtio_entropy", drivers::virtio_entropy),
    ("virtio_input", drivers::virtio_input),
    ("virtio_balloon", drivers::virtio_balloon),
    ("virtio_sockets", drivers::virtio_sockets),
    ("vmware_completion", vmware_completion),
    ("pvscsi_driver", drivers::pvscsi_driver),
    ("vmxnet3_driver", drivers::vmxnet3_driver),
    ("blkfront_driver", drivers::blkfront_driver),
    ("netfront_driver", drivers::netfront_driver),
    ("xenstore_driver", drivers::xenstore_driver),
    ("storvsc_driver", drivers::storvsc_driver),
    ("netvsc_driver", drivers::netvsc_driver),
    ("hv_input_driver", drivers::hv_input_driver),
    ("hv_ic_driver", drivers::hv_ic_driver),
    ("hv_socket_driver", drivers::hv_socket_driver),
    ("hv_balloon_driver", drivers::hv_balloon_driver),
];

thread_local! {
    static GUEST: Guest = Guest::new();
}

/// A queue with five requests in flight, whose device writes `data`, in pieces, to the memory that it may write.
fn ring(packed: bool, data: &[u8]) {
    let [settings, data @ ..] = data else { return };
    GUEST.with(|guest| {
        let mut config = QueueConfig::new(8);
        config.format = if packed { RingFormat::Packed } else { RingFormat::Split };
        (config.event_idx, config.in_order) = (settings & 1 != 0, settings & 2 != 0);
        (config.indirect, config.area) = (if settings & 4 != 0 { 4 } else { 0 }, 64);
        let Ok(mut queue) = VirtQueue::<Guest, DmaSlice<Guest>, u8>::new(guest, config) else { return };
        for tag in 0..5 {
            let buffer = DmaSlice::alloc(guest, 64).ok();
            let _ = queue.submit(Parts::NONE, buffer, Direction::FromDevice, tag, |_, _| Ok(()));
        }
        let _ = queue.publish();
        let mut left = queue.in_flight();
        let addresses = queue.addresses();
        let (base, len) = if packed { (addresses.desc.0, 128) } else { (addresses.device.0, 70) };
        'pieces: for piece in data.chunks(len) {
            guest.write(base, piece);
            if packed && piece.len() > 4 {
                guest.write(addresses.device.0, &piece[..4]);
            }
            let _ = queue.arm();
            loop {
                match queue.pop() {
                    Ok(Some(used)) => {
                        assert!(used.len <= 64 && left > 0, "more requests completed than were submitted");
                        left -= 1;
                    }
                    Ok(None) => break,
                    Err(_) => break 'pieces,
                }
            }
        }
        // SAFETY: the device is this function, and it has stopped.
        let proof = unsafe { Quiesced::new() };
        while let Some(used) = queue.reclaim_next(Some(&proof)) {
            assert!(used.buffer.is_some_and(|buffer| !buffer.is_in_flight()), "a buffer was lost");
            left -= 1;
        }
        assert_eq!(left, 0);
        queue.quiesce(&proof);
        drop(queue);
        assert_eq!(guest.pages(), 0, "memory leaked");
    });
}

/// The used ring of a split virtqueue.
pub fn split_used(data: &[u8]) {
    ring(false, data);
}

/// A packed virtqueue.
pub fn packed_ring(data: &[u8]) {
    ring(true, data);
}

/// The capabilities in a PCI configuration space.
pub fn pci_caps(data: &[u8]) {
    let mut space = [0; 256];
    for (to, from) in space.iter_mut().zip(data) {
        *to = *from;
    }
    let read = |at: u8| u32::from_le_bytes([0, 1, 2, 3].map(|i| space[usize::from(at & 0xfc) + i]));
    // The last byte of the space decides which BARs can be reached.
    let is_reachable = |structure: &BarRange| space[255] & (1 << structure.bar) == 0;
    if let Ok(found) = caps::parse(read, is_reachable) {
        for structure in [found.common, found.notify, found.isr] {
            assert!(is_reachable(&structure));
            assert!(structure.bar < 6 && structure.offset.checked_add(structure.length).is_some());
        }
        assert!(found.common.length >= caps::COMMON_LEN);
    }
    for capability in capabilities(read) {
        assert!(capability.position >= 0x40);
        let _ = MsiCapability::parse(read, capability);
        if let Some(msix) = MsixCapability::parse(read, capability) {
            assert!((1..=2048).contains(&msix.entries) && msix.table.length == 16 * u32::from(msix.entries));
        }
    }
}

struct Memory<'a>(&'a [u8]);

impl PhysicalMemory for Memory<'_> {
    fn read(&self, address: u64, into: &mut [u8]) -> Option<()> {
        // Addresses are taken modulo 64 KiB, so that the BIOS area maps to the data.
        let at = usize::try_from(address).ok()? & 0xffff;
        into.copy_from_slice(self.0.get(at..at.checked_add(into.len())?)?);
        Some(())
    }
}

/// ACPI's table directory and the MCFG.
pub fn acpi_tables(data: &[u8]) {
    let memory = Memory(data);
    let rsdp = tables::find_rsdp(&memory).unwrap_or(0);
    let mut count = 0;
    tables::walk(&memory, rsdp, |table| {
        assert!(table.len >= tables::HEADER_LEN as u32);
        count += 1;
    });
    assert!(count <= 512);
    let _ = fadt::event_registers(data);
    for entry in mcfg::entries(data) {
        assert!(entry.first <= entry.last && entry.base != 0);
    }
}

/// The scan of AML.
pub fn aml(data: &[u8]) {
    assert!(scan::sleep_type_s5(data).is_none_or(|(a, b)| a < 8 && b < 8));
    for device in scan::virtio_mmio_devices(data) {
        assert!(device.len > 0);
    }
    for bridge in scan::host_bridges(data) {
        assert!(bridge.ecam != Some(0));
        for resource in scan::resources(bridge.template) {
            if let scan::Resource::Window { start, last } = resource {
                assert!(start <= last);
            }
        }
    }
    assert!(scan::resources(data).count() <= data.len());
    for bus in scan::hot_plug_buses(data) {
        assert!(bus.bridges().count() <= scan::MAX_BRIDGES);
        assert!(bus.bridges().all(|(device, function)| device < 32 && function < 8));
    }
    let _ = (scan::event_device(data), scan::region(data, b"PCST"));
}

/// The device tree.
pub fn device_tree(data: &[u8]) {
    let Some(tree) = DeviceTree::parse(data) else { return };
    assert!(tree.nodes().count() <= data.len());
    for device in trees::virtio_mmio_devices(tree).take(32) {
        assert!(device.len > 0);
    }
    for bridge in trees::host_bridges(tree).take(32) {
        assert!(bridge.first <= bridge.last);
        assert!(bridge.windows().count() <= data.len());
        let _ = (bridge.line(0, 0, 1), bridge.line(31, 7, 4));
    }
}

/// The command line.
pub fn command_line(data: &[u8]) {
    let line = String::from_utf8_lossy(data);
    for device in words::mmio_devices(&line).flatten() {
        assert!(device.len > 0 && device.base.checked_add(device.len).is_some());
    }
}

/// Configurations and frame headers of devices.
pub fn device_config(data: &[u8]) {
    let mut bytes = [0; 72];
    for (to, from) in bytes.iter_mut().zip(data) {
        *to = *from;
    }
    let (features, rest) = bytes.split_at(8);
    let features = features.try_into().map_or(0, u64::from_le_bytes);
    if let Some(config) = rest.first_chunk()
        && let Some(info) = blk::parse(config, blk::BlkFeatures::from_bits_truncate(features), 14)
    {
        assert!(info.max_bytes >= info.block_size && info.max_segments >= 1);
        assert!(info.discard.is_none_or(|limits| limits.max_blocks > 0 && limits.alignment > 0));
    }
    if let Some(config) = rest.first_chunk()
        && let Some(config) = net::parse(config, net::NetFeatures::from_bits_truncate(features))
    {
        assert!(config.mtu >= 68 && config.pairs > 0);
    }
    if let Some(bytes) = rest.first_chunk() {
        let (meta, _) = header::parse(bytes);
        assert!(meta.segmentation.is_none_or(|segmentation| segmentation.size > 0));
    }
}

/// A ring that a producer writes with `data`, and the words of its control page with the beginning of it.
pub fn vmbus_ring(data: &[u8]) {
    let ring = ArrayRing::<64>::new();
    let Ok(mut incoming) = Incoming::new(&ring) else { return };
    let mut buffer = [0; 256];
    for piece in data.chunks(512 + 4) {
        let Some((index, bytes)) = piece.split_first_chunk() else { return };
        for (to, from) in ring.data().iter().zip(bytes.chunks(8)) {
            let mut word = [0; 8];
            word[..from.len()].copy_from_slice(from);
            to.store(u64::from_le_bytes(word), Ordering::Relaxed);
        }
        ring.control()[0].store(u32::from_le_bytes(*index), Ordering::Relaxed);
        for taken in 0.. {
            match incoming.next(&mut buffer) {
                Ok(Some(packet)) => {
                    assert!(
                        packet.header.len() + packet.payload.len() <= 256 && packet.header.len() % 8 == 0
                    );
                    black_box(packet.transfer_ranges().map(|ranges| ranges.iter().count()));
                    let _ = packet
                        .gpa_ranges()
                        .map(|ranges| ranges.map(|range| range.pages().len()).sum::<usize>());
                }
                Ok(None) => break,
                Err(_) => return,
            }
            assert!(taken < 512 / 24, "more packets than there is room for");
        }
        let _ = (incoming.release(), incoming.unmask());
    }
}

/// Producer and consumer of a ring, compared with a model queue: packets are received as sent, in order.
pub fn ring_pair(data: &[u8]) {
    let ring = ArrayRing::<64>::new();
    let (Ok(mut outgoing), Ok(mut incoming)) = (Outgoing::new(&ring), Incoming::new(&ring)) else { return };
    let mut model: VecDeque<(u64, Vec<u8>)> = VecDeque::new();
    let (mut buffer, mut published, mut next) = ([0; 512], 0usize, 0u64);
    for step in data.chunks(2) {
        let (what, len) = (step[0], usize::from(step.get(1).copied().unwrap_or(0)));
        match what % 4 {
            0 | 1 => {
                let bytes = vec![next as u8; len];
                let at = (len / 2) & !7;
                let sent = match what % 8 {
                    0 => outgoing.completion(next, &[&bytes]),
                    _ => outgoing.in_band(next, what & 8 != 0, &[&bytes[..at], &bytes[at..]]),
                };
                let used: usize = model.iter().map(|(_, bytes)| bytes.len().next_multiple_of(8) + 24).sum();
                let fits = used + len.next_multiple_of(8) + 24 <= 512 - 8;
                match sent {
                    Ok(()) => model.push_back((next, bytes)),
                    Err(error) => assert!(!fits && error == RingError::Full, "{error} of {used} and {len}"),
                }
                next += 1;
            }
            2 => {
                let _ = outgoing.publish();
                published = model.len();
            }
            _ => {
                match incoming.next(&mut buffer) {
                    Ok(Some(packet)) => {
                        let (id, bytes) = model.pop_front().expect("a packet that was not sent");
                        assert_eq!((packet.transaction, &packet.payload[..bytes.len()]), (id, &bytes[..]));
                        published = published.checked_sub(1).expect("a packet that was not published");
                    }
                    Ok(None) => assert_eq!(published, 0, "a packet was lost"),
                    Err(error) => panic!("{error}"),
                }
                let _ = incoming.release();
            }
        }
    }
}

/// GPA ranges and transfer page ranges in a packet's header.
pub fn gpa_ranges(data: &[u8]) {
    for kind in [Kind::GPA_DIRECT, Kind::TRANSFER_PAGES] {
        let packet = Packet { kind, wants_completion: true, transaction: 0, header: data, payload: &[] };
        if let Some(ranges) = packet.gpa_ranges() {
            for range in ranges {
                let pages = u64::from(range.len) + u64::from(range.offset);
                assert!(range.offset < 4096 && range.pages().len() as u64 == pages.div_ceil(4096));
            }
        }
        if let Some(ranges) = packet.transfer_ranges() {
            assert!(ranges.iter().len() * 8 + 8 <= data.len());
        }
    }
}

/// VMBus messages.
pub fn vmbus_message(data: &[u8]) {
    if let Ok(message) = paravirt_vmbus::HostMessage::parse(data) {
        assert_eq!(Ok(message), paravirt_vmbus::HostMessage::parse(data));
        assert!(data.len() >= 8);
    }
    let _ = paravirt_vmbus::pipe::parse(data).map(|message| assert!(message.len() + 8 <= data.len()));
}

/// Messages of dynamic memory; the page ranges in them are inserted into a set and removed from it.
pub fn dynamic_memory(data: &[u8]) {
    use paravirt_hv_balloon::HostMessage;
    if let Ok(HostMessage::Unballoon { ranges, .. }) = HostMessage::parse(data) {
        assert!(ranges.iter().len() * 8 + 16 <= data.len());
        GUEST.with(|guest| {
            let Ok(mut held) = HeldPages::new(guest, 16) else { return };
            let mut model = BTreeSet::new();
            for (i, range) in ranges.iter().enumerate() {
                // Small numbers, so that ranges overlap.
                let range = PageRange { first: range.first % 64, count: range.count % 16 };
                let pages = range.first..range.end();
                let all_in = range.count > 0 && pages.clone().all(|page| model.contains(&page));
                let none_in = range.count > 0 && pages.clone().all(|page| !model.contains(&page));
                if i % 3 == 2 {
                    if held.remove(range) {
                        assert!(all_in);
                        pages.for_each(|page| assert!(model.remove(&page)));
                    }
                } else if held.insert(range) {
                    assert!(none_in);
                    model.extend(pages);
                } else {
                    assert!(!none_in || !held.has_room());
                }
                assert_eq!(held.pages(), model.len() as u64);
            }
            while let Some(run) = held.pop(3) {
                (run.first..run.end()).for_each(|page| assert!(model.remove(&page)));
            }
            assert!(model.is_empty());
        });
    }
}

/// StorVSP packets.
pub fn storvsp_packet(data: &[u8]) {
    use paravirt_storvsc::{Executed, HostPacket, properties};
    for kind in [Kind::COMPLETION, Kind::IN_BAND] {
        let packet = Packet { kind, wants_completion: false, transaction: 7, header: &[], payload: data };
        if HostPacket::parse(&packet).is_ok() {
            assert!(data.len() >= 12);
        }
    }
    if let Ok(executed) = Executed::parse(data) {
        assert!(data.len() >= 48 && Ok(executed) == Executed::parse(data));
    }
    assert!(properties(data).is_none() || data.len() >= 36);
}

/// Completions of VMware's devices: of a SCSI command with its sense data, and of a received frame with its first bytes.
pub fn vmware_completion(data: &[u8]) {
    use paravirt_pvscsi::Completion;
    use paravirt_vmxnet3::RxCompletion;
    let Some((words, rest)) = data.split_first_chunk::<32>() else { return };
    let word = |at: usize| u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|byte| words[8 * at + byte]));
    let len = rest.len() as u32;
    let completion = Completion::new([word(0), word(1), word(2), word(3)]);
    let mut sense = [0; 96];
    sense.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    for may_be_short in [false, true] {
        let (status, transferred) = completion.status(len, may_be_short, &sense);
        assert!(transferred <= len);
        if let Some(good) = completion.good(len) {
            assert_eq!((status, transferred), (paravirt_scsi::Status::Good, good));
        }
    }
    let received = RxCompletion::new(word(0), word(1));
    assert!(received.len() < 1 << 14 && received.index() < 1 << 12 && received.queue() < 1 << 10);
    let meta = received.meta(Some(&RxCompletion::new(word(2), word(3))), rest.len(), 1514, rest);
    if let Some(segmentation) = meta.segmentation {
        assert!(segmentation.size > 0 && segmentation.headers >= 14);
    }
}

/// Sense data and its disposition.
pub fn scsi_sense(data: &[u8]) {
    if let Some(sense) = paravirt_scsi::Sense::parse(data) {
        assert!(sense.key < 16);
        black_box(sense.disposition());
    }
}

/// Data that a SCSI unit returns; the first byte selects the parser.
pub fn scsi_data(data: &[u8]) {
    use paravirt_scsi::data::*;
    let Some((kind, data)) = data.split_first() else { return };
    match kind % 8 {
        0 => drop(black_box(peripheral(data))),
        1 => assert!(name(data).is_none_or(|name| !name.is_empty() && name.len() < data.len())),
        2 => drop(black_box((block_limits(data), provisioning(data), serial(data)))),
        3 => drop((capacity_10(data), capacity_16(data))),
        4 => drop(mode(data)),
        5 => assert!(luns(data).count() * 8 + 8 <= data.len().max(8)),
        page => assert!(vpd_body(data, *kind % page).is_none_or(|body| body.len() + 4 <= data.len())),
    }
}

/// NVSP messages.
pub fn nvsp_message(data: &[u8]) {
    use paravirt_netvsc::{NvspVersion, message::HostMessage};
    for version in [NvspVersion::V1, NvspVersion::V6, NvspVersion::V61] {
        if let Ok(message) = HostMessage::parse(data, version) {
            assert!(data.len() >= 4 && Ok(message) == HostMessage::parse(data, version));
        }
    }
}

/// RNDIS messages: frames with their per-packet information, and control messages.
pub fn rndis_message(data: &[u8]) {
    use paravirt_netvsc::rndis::{Control, FrameHeader, FrameInfo, vlan_word};
    let room = data.len() as u32;
    if let Ok(header) = FrameHeader::parse(data, room) {
        let inside =
            |offset: u32, len: u32| data.get(offset as usize..(offset + len) as usize).expect("inside");
        inside(header.offset, header.len);
        if header.info_len > 0
            && let Ok(info) = FrameInfo::parse(inside(header.info_offset, header.info_len))
        {
            black_box(info.is_verified());
            assert!(info.tag().is_none_or(|tag| info.vlan.map(|word| word & 0xffff) == Some(vlan_word(tag))));
        }
    }
    if let Ok(Control::Completed { info: (offset, len), .. }) = Control::parse(data) {
        assert!(data.get(offset as usize..(offset + len) as usize).is_some());
    }
    let _ = black_box(FrameInfo::parse(data));
}

/// Messages of the integration services, and their answers.
pub fn integration_message(data: &[u8]) {
    use core::fmt::{Error, Write};
    use paravirt_device::{Agent, Fact, ValuePool};
    use paravirt_hv_ic::{Service, answer};

    /// An agent with a few values.
    struct Kernel;
    impl Agent for Kernel {
        fn fact(&mut self, _: Fact, out: &mut dyn Write) -> std::fmt::Result {
            out.write_str("fact")
        }
        fn set_value(&mut self, _: ValuePool, key: &str, value: Option<&str>) -> bool {
            assert!(key.len() <= 768 && value.is_none_or(|value| value.len() <= 3072));
            key.len().is_multiple_of(2)
        }
        fn value(&mut self, _: ValuePool, key: &str, out: &mut dyn Write) -> std::fmt::Result {
            out.write_str(key)?;
            out.write_str(key)
        }
        fn key(&mut self, _: ValuePool, index: u32, out: &mut dyn Write) -> std::fmt::Result {
            if index < 5 { write!(out, "key {index}") } else { Err(Error) }
        }
    }
    for service in [
        Service::Shutdown,
        Service::Heartbeat,
        Service::TimeSync,
        Service::KeyValue,
        Service::Backup,
        Service::FileCopy,
    ] {
        let mut message = data.to_vec();
        if answer(service, &mut message, Some(1 << 40), &mut Kernel).is_ok() {
            // The response flags are set, and the framework version is unchanged.
            assert!(message.len() == data.len() && message[17] == 5 && message[..4] == data[..4]);
        }
    }
}

/// Messages of keyboards (the first byte is even) and of mice.
pub fn input_message(data: &[u8]) {
    use paravirt_hv_input::{HostMessage, Keyboard};
    let [kind, message @ ..] = data else { return };
    let parsed =
        if kind & 1 == 0 { HostMessage::of_keyboard(message) } else { HostMessage::of_mouse(message) };
    match parsed {
        Ok(HostMessage::Descriptor(part) | HostMessage::Report(part)) => {
            assert!(part.len() <= message.len(), "longer than the message");
        }
        Ok(HostMessage::Keystroke(stroke)) => {
            let mut keyboard = Keyboard::default();
            black_box((keyboard.event(stroke), keyboard.event(stroke)));
        }
        _ => {}
    }
}

/// A HID report descriptor, whose length is the first byte, followed by reports of 8 bytes.
pub fn hid_reports(data: &[u8]) {
    use paravirt_hv_input::{Layout, Pointer};
    let [len, rest @ ..] = data else { return };
    let (descriptor, reports) = rest.split_at(rest.len().min((*len).into()));
    let (layout, mut pointer) = (Layout::parse(descriptor), Pointer::default());
    for report in reports.chunks(8) {
        let mut count = 0;
        pointer.report(&layout, report, &mut |_| count += 1);
        assert!(count <= 10, "more events than a driver can queue");
    }
}

/// Packets of virtio sockets.
pub fn socket_packet(data: &[u8]) {
    use paravirt_virtio::socket::packet::Packet;
    if let Some((packet, payload)) = Packet::parse(data) {
        assert_eq!((payload.len(), &packet.bytes()[..]), (packet.len as usize, &data[..44]));
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_target_has_a_program_and_a_corpus() {
        let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        for (name, target) in super::TARGETS {
            assert!(here.join(format!("fuzz_targets/{name}.rs")).is_file(), "{name}");
            let corpus = std::fs::read_dir(here.join("corpus").join(name)).expect("a corpus");
            let files: Vec<_> = corpus.flatten().collect();
            assert!(!files.is_empty(), "{name}");
            files.iter().for_each(|file| target(&std::fs::read(file.path()).expect("a file")));
        }
    }
}
