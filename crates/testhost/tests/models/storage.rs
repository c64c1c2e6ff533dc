//! The models of StorVSP and its drives.

use crate::{PACKETS, PAGE, Sample, check_truncated, flood, send};
use hyperv_bindings::storvsp::{
    StorvspDirection, StorvspExecute, StorvspOperation, StorvspSrbFlags, StorvspVersion,
};
use paravirt_testhost::{Guest, StorDrive, StorHost, VmbusDevice};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// A StorVSP packet other than a command.
fn plain(operation: StorvspOperation, word: u16) -> Sample {
    let mut bytes = vec![0; 64];
    bytes[..4].copy_from_slice(operation.as_bytes());
    bytes[4] = 1;
    bytes[12..14].copy_from_slice(&word.to_le_bytes());
    (bytes, vec![])
}

/// A command to LUN 0.
fn command(cdb: &[u8], direction: StorvspDirection, data: Vec<u8>) -> Sample {
    let mut packet = StorvspExecute::new_zeroed();
    packet.header.operation = StorvspOperation::EXECUTE_SRB;
    packet.header.flags = 1;
    packet.request.length = 0x34;
    packet.request.cdb_length = 16;
    packet.request.direction = direction;
    packet.request.transfer_length = data.len() as u32;
    packet.request.cdb_or_sense[..cdb.len()].copy_from_slice(cdb);
    packet.request.srb_flags = match direction {
        StorvspDirection::OUT => StorvspSrbFlags::DATA_OUT,
        _ => StorvspSrbFlags::DATA_IN,
    }
    .bits();
    (packet.as_bytes().to_vec(), data)
}

/// A command of 16 bytes.
fn long(opcode: u8, lba: u64, count: u32) -> Vec<u8> {
    [&[opcode, 0][..], &lba.to_be_bytes(), &count.to_be_bytes(), &[0; 2]].concat()
}

/// The parameter list of an UNMAP.
fn unmapped(lba: u64, count: u32) -> Vec<u8> {
    [&[0, 22, 0, 16, 0, 0, 0, 0][..], &lba.to_be_bytes(), &count.to_be_bytes(), &[0; 4]].concat()
}

fn storage_begins() -> Vec<Sample> {
    vec![
        plain(StorvspOperation::BEGIN_INITIALIZATION, 0),
        plain(StorvspOperation::QUERY_PROTOCOL_VERSION, StorvspVersion::THRESHOLD.0),
        plain(StorvspOperation::QUERY_PROPERTIES, 0),
        plain(StorvspOperation::END_INITIALIZATION, 0),
    ]
}

#[test]
fn the_storage_model_survives_any_messages() {
    let (from, to) = (StorvspDirection::IN, StorvspDirection::OUT);
    let mut samples = storage_begins();
    samples.push(plain(StorvspOperation::CREATE_SUB_CHANNELS, 2));
    samples.push(plain(StorvspOperation::RESET_BUS, 0));
    for opcode in [0x28, 0x2a, 0x88, 0x8a, 0x93] {
        let direction = if matches!(opcode, 0x28 | 0x88) { from } else { to };
        for (lba, count) in [(0, 1), (1, 2), (u64::MAX, u32::MAX), (1 << 32, 1 << 31), (0, 0x40_0000)] {
            samples.push(command(&long(opcode, lba, count), direction, vec![7; 1024]));
        }
    }
    for (lba, count) in [(3, 5), (0, u32::MAX), (u64::MAX, 1)] {
        samples.push(command(&[0x42], to, unmapped(lba, count)));
    }
    for cdb in [
        &[0x12, 0, 0, 0, 96][..],
        &[0x12, 1, 0xb0, 0, 96],
        &[0x1a, 0, 8, 0, 255],
        &[0x25],
        &[0x35],
        &[0x9e, 0x10],
        &[0xa0],
    ] {
        samples.push(command(cdb, from, vec![0; 256]));
    }
    let mut storage = StorHost::new();
    storage.insert(0, StorDrive::memory(512, vec![1; 64 << 10]));
    flood(&mut storage.clone(), &storage_begins(), &samples, || {});
    check_truncated(&storage.violations());
    assert!(storage.take_commands().len() > PACKETS / 4 && storage.resets() > 0);
    // A correct guest is served afterwards.
    let guest = Guest::new();
    storage.open();
    storage_begins().iter().for_each(|sample| drop(send(&mut storage, guest.memory(), sample)));
    assert_eq!(execute(&mut storage, &guest, &long(0x88, 0, 1), from, vec![0; 512]), None);
}

/// Executes a command; returns its sense data, if any: key, code and qualifier.
fn execute(
    storage: &mut StorHost,
    guest: &Guest,
    cdb: &[u8],
    direction: StorvspDirection,
    data: Vec<u8>,
) -> Option<[u8; 3]> {
    let sent = send(storage, guest.memory(), &command(cdb, direction, data));
    let [answer] = &sent.packets[..] else { panic!("{} answers", sent.packets.len()) };
    let answer = StorvspExecute::read_from_bytes(answer).expect("an answer");
    assert_eq!(answer.header.operation, StorvspOperation::COMPLETE_IO);
    let sense = answer.request.cdb_or_sense;
    (answer.request.scsi_status != 0).then_some([sense[2], sense[12], sense[13]])
}

/// An initialized controller with one drive.
fn storage(guest: &Guest, drive: StorDrive) -> StorHost {
    let mut storage = StorHost::new();
    storage.insert(0, drive);
    storage.open();
    storage_begins().iter().for_each(|sample| drop(send(&mut storage, guest.memory(), sample)));
    storage
}

#[test]
fn write_same_has_the_reported_limit() {
    let guest = Guest::new();
    let mut storage = storage(&guest, StorDrive::memory(512, vec![1; 0x5000 * 512]));
    let mut same =
        |count| execute(&mut storage, &guest, &long(0x93, 1, count), StorvspDirection::OUT, vec![9; 512]);
    assert_eq!(same(0x4001), Some([5, 0x24, 0]));
    assert_eq!(same(u32::MAX), Some([5, 0x24, 0]));
    assert_eq!(same(0x4000), None);
    for (lba, byte) in [(0, 1), (1, 9), (0x4000, 9), (0x4001, 1)] {
        assert_eq!(storage.drive(0, |drive| drive.read(lba * 512, 512)), Some(Some(vec![byte; 512])));
    }
    let provisioning = command(&[0x12, 1, 0xb2, 0, 8], StorvspDirection::IN, vec![0; 8]);
    send(&mut storage, guest.memory(), &provisioning);
    // UNMAP and WRITE SAME (16).
    assert_eq!(guest.memory().read(PAGE * 4096, 8)[5], 0xc0);
    assert_eq!(storage.violations(), Vec::<String>::new());
}

/// A file that is removed when this is dropped.
struct Image(std::path::PathBuf);

impl Image {
    fn new(name: &str, len: u64) -> Self {
        let path = std::env::temp_dir().join(format!("paravirt-{}-{name}", std::process::id()));
        File::create(&path).and_then(|file| file.set_len(len)).expect("a file");
        Self(path)
    }

    fn drive(&self, is_written: bool) -> StorDrive {
        let file = File::options().read(true).write(is_written).open(&self.0).expect("the file");
        StorDrive::file(512, file).expect("a drive")
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn a_write_error_is_reported() {
    let (guest, image) = (Guest::new(), Image::new("faults", 1 << 20));
    let mut storage = storage(&guest, image.drive(false));
    for opcode in [0x8a, 0x93] {
        let sense = execute(&mut storage, &guest, &long(opcode, 1, 1), StorvspDirection::OUT, vec![9; 512]);
        assert_eq!(sense, Some([3, 3, 0]));
    }
}

#[test]
fn unmapping_keeps_a_sparse_file_sparse() {
    let (guest, image) = (Guest::new(), Image::new("sparse", 64 << 20));
    let mut storage = storage(&guest, image.drive(true));
    let mut unmap =
        |lba, count| execute(&mut storage, &guest, &[0x42], StorvspDirection::OUT, unmapped(lba, count));
    assert_eq!(unmap(0, 0x2_0001), Some([5, 0x21, 0]));
    assert_eq!(unmap(0, 0x2_0000), None);
    assert!(image.0.metadata().expect("the file").blocks() < 256);
    let write = execute(&mut storage, &guest, &long(0x8a, 200, 8), StorvspDirection::OUT, vec![9; 4096]);
    assert_eq!(write, None);
    let mut unmap =
        |lba, count| execute(&mut storage, &guest, &[0x42], StorvspDirection::OUT, unmapped(lba, count));
    assert_eq!(unmap(0, 204), None);
    assert_eq!(
        storage.drive(0, |drive| drive.read(200 * 512, 4096)),
        Some(Some([[0; 2048], [9; 2048]].concat()))
    );
}
