//! Fuzz targets, as functions: `fuzz_targets/` makes programs of cargo-fuzz of them, and the program `replay` runs them on
//! stable over their corpus and seeded mutations.
//!
//! ```
//! paravirt_fuzz::command_line(b"virtio_mmio.device=4K@0xd0000000:5");
//! ```

use paravirt_firmware::{PhysicalMemory, aml as scan, command_line as words, mcfg, tables};
use paravirt_platform::{Direction, DmaSlice};
use paravirt_testhost::Guest;
use paravirt_virtio::blk::config as blk;
use paravirt_virtio::net::{config as net, header};
use paravirt_virtio::queue::{QueueConfig, Quiesced, VirtQueue};
use paravirt_virtio::transport::pci_caps as caps;

/// A target.
pub type Target = fn(&[u8]);

/// All of them, by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("split_used", split_used),
    ("packed_ring", packed_ring),
    ("pci_caps", pci_caps),
    ("acpi_tables", acpi_tables),
    ("aml", aml),
    ("command_line", command_line),
    ("device_config", device_config),
];

thread_local! {
    static GUEST: Guest = Guest::new();
}

/// A queue with five requests in flight whose device writes `data`, a piece at a time, wherever it may.
fn ring(packed: bool, data: &[u8]) {
    let [settings, data @ ..] = data else { return };
    GUEST.with(|guest| {
        let config = QueueConfig {
            size: 8,
            packed,
            event_idx: settings & 1 != 0,
            in_order: settings & 2 != 0,
            indirect: if settings & 4 != 0 { 4 } else { 0 },
            slot_areas: true,
        };
        let Ok(mut queue) = VirtQueue::<Guest, DmaSlice<Guest>, u8>::new(guest, config) else { return };
        for tag in 0..5 {
            let buffer = DmaSlice::alloc(guest, 64).ok();
            let _ = queue.submit(&[], buffer, Direction::FromDevice, &[], tag, |_, _| Ok(()));
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
                        assert!(used.len <= 64 && left > 0, "more came back than was sent");
                        left -= 1;
                    }
                    Ok(None) => break,
                    Err(_) => break 'pieces,
                }
            }
        }
        // SAFETY: the device is this function, and it has stopped.
        let proof = unsafe { Quiesced::assume() };
        while let Some(used) = queue.take_back(Some(&proof)) {
            assert!(used.buffer.is_some_and(|buffer| !buffer.is_lent()), "a buffer was lost");
            left -= 1;
        }
        assert_eq!(left, 0);
        drop(queue);
        assert_eq!(guest.pages(), 0, "memory leaked");
    });
}

/// The used ring of a split queue.
pub fn split_used(data: &[u8]) {
    ring(false, data);
}

/// A packed ring.
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
    if let Some(found) = caps::parse(read) {
        for structure in [found.common, found.notify, found.isr] {
            assert!(structure.bar < 6 && structure.offset.checked_add(structure.length).is_some());
        }
        assert!(found.common.length >= caps::COMMON_LEN);
        assert!(found.msix.is_none_or(|msix| (1..=2048).contains(&msix.entries)));
    }
}

struct Memory<'a>(&'a [u8]);

impl PhysicalMemory for Memory<'_> {
    fn read(&self, address: u64, into: &mut [u8]) -> Option<()> {
        // The BIOS area is where the bytes are.
        let at = usize::try_from(address).ok()? & 0xffff;
        into.copy_from_slice(self.0.get(at..at.checked_add(into.len())?)?);
        Some(())
    }
}

/// ACPI's table directory, and MCFG.
pub fn acpi_tables(data: &[u8]) {
    let memory = Memory(data);
    let rsdp = tables::find_rsdp(&memory).unwrap_or(0);
    let mut count = 0;
    tables::walk(&memory, rsdp, |table| {
        assert!(table.len >= tables::HEADER_LEN as u32);
        count += 1;
    });
    assert!(count <= 512);
    for entry in mcfg::entries(data) {
        assert!(entry.first <= entry.last && entry.base != 0);
    }
}

/// The scan of AML.
pub fn aml(data: &[u8]) {
    assert!(scan::sleep_type_s5(data).is_none_or(|(a, b)| a < 8 && b < 8));
    assert!(scan::ecam_base(data) != Some(0));
    for device in scan::virtio_mmio_devices(data) {
        assert!(device.len > 0);
    }
    for template in scan::host_bridges(data) {
        for resource in scan::resources(template) {
            if let scan::Resource::Window { start, last } = resource {
                assert!(start <= last);
            }
        }
    }
    assert!(scan::resources(data).count() <= data.len());
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
