//! The kernel in C: it reads its disk and answers pings, on QEMU of this program, on VMBus of the monitor's router.

use super::hyperv::with_lab;
use super::{Bench, DISK1, Outcome, must_contain, must_end};
use crate::kernel;
use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

pub const CASES: &[(&str, super::Special)] = &[
    ("a kernel in C: reads its disk and answers pings", qemu),
    ("monitor: a kernel in C reads its disk and answers pings", hyperv),
];

const PINGS: u16 = 3;

/// Makes a disk whose first block has the sum 512.
fn disk(path: &Path) -> Result<()> {
    let mut file = File::create(path)?;
    file.set_len(DISK1)?;
    Ok(file.write_all(&[1; 512])?)
}

fn qemu(bench: &Bench) -> Result<Outcome> {
    let elf = kernel::c_kernel(&bench.folder)?;
    for (machine, bus) in [("q35", "pci"), ("microvm,acpi=on", "device")] {
        let path = bench.folder.join("c-kernel.img");
        disk(&path)?;
        let wire = Wire::new(&bench.folder)?;
        let mut machine = crate::guest::Machine::new(&elf, machine, 1, "512M");
        machine.drive("d0", &path, "");
        machine.add(&format!("-device virtio-blk-{bus},drive=d0 {}", wire.words));
        machine.add(&format!("-device virtio-net-{bus},netdev=n0"));
        let (transcript, answers) = std::thread::scope(|scope| {
            let pinging = scope.spawn(|| wire.ping(PINGS));
            let transcript = machine.run(|_| ());
            (transcript, pinging.join())
        });
        let transcript = transcript?;
        must_end(&transcript, 0)?;
        must_contain(&transcript, &format!("disk blocks={} first=512", DISK1 / 512))?;
        let answers = answers.map_err(|_| anyhow::anyhow!("the sender of pings panicked"))??;
        ensure!(answers >= PINGS, "{answers} pings were answered:\n{}", transcript.text());
    }
    Ok(Outcome::Passed)
}

fn hyperv(bench: &Bench) -> Result<Outcome> {
    with_lab(bench, |lab, folder, _| {
        let elf = kernel::c_kernel(folder)?;
        let path = folder.join("disk.img");
        disk(&path)?;
        let words = format!("--disk {} --net --ping {PINGS}", path.display());
        let transcript = lab.monitored(&elf, folder, &words)?.run(|_| ())?;
        must_end(&transcript, 0)?;
        must_contain(&transcript, &format!("disk blocks={} first=512", DISK1 / 512))?;
        let answers = transcript.lines.iter().filter(|line| line.starts_with("monitor: ping ")).count();
        ensure!(answers == usize::from(PINGS), "{answers} pings were answered:\n{}", transcript.text());
        let wrong = transcript.lines.iter().find(|line| line.contains("did wrong"));
        ensure!(wrong.is_none(), "the guest violated the protocol:\n{}", transcript.text());
        Ok(())
    })
}

/// The other end of the network card of a QEMU, on which each datagram is a frame.
struct Wire {
    socket: UnixDatagram,
    guest: std::path::PathBuf,
    /// QEMU's option.
    words: String,
}

const ROUTER: [u8; 6] = [0x52, 0x55, 10, 0, 2, 2];
const ADDRESSES: [u8; 8] = [10, 0, 2, 2, 10, 0, 2, 15];
const DATA: &[u8; 16] = b"pings of paravir";

impl Wire {
    fn new(folder: &Path) -> Result<Self> {
        let (here, guest) = (folder.join("wire"), folder.join("wire-guest"));
        let _ = std::fs::remove_file(&here);
        let _ = std::fs::remove_file(&guest);
        let socket = UnixDatagram::bind(&here).with_context(|| format!("cannot bind {}", here.display()))?;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        let words = format!(
            "-netdev dgram,id=n0,local.type=unix,local.path={},remote.type=unix,remote.path={}",
            guest.display(),
            here.display()
        );
        Ok(Self { socket, guest, words })
    }

    /// Asks the guest for its Ethernet address and pings it, until it has answered `wanted` pings or a minute has passed. Returns the
    /// number of right answers.
    fn ping(&self, wanted: u16) -> Result<u16> {
        let end = Instant::now() + Duration::from_secs(60);
        let (mut guest, mut answers) = (None, 0);
        while answers < wanted && Instant::now() < end {
            let frame = match guest {
                None => arp_request(),
                Some(mac) => echo_request(mac, answers),
            };
            if self.socket.send_to(&frame, &self.guest).is_err() {
                // QEMU has not started.
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
            let mut bytes = [0; 2048];
            let Ok(len) = self.socket.recv(&mut bytes) else { continue };
            let frame = &bytes[..len];
            if len < 42 || !frame.starts_with(&ROUTER) {
                continue;
            }
            if frame[12..14] == [8, 6] && frame[21] == 2 {
                guest = frame[6..].first_chunk().copied();
            } else if len >= 58 && frame[23] == 1 && frame[34] == 0 {
                let is_right = sum(&frame[14..34]) == 0 && sum(&frame[34..58]) == 0 && frame[42..58] == *DATA;
                ensure!(is_right, "the answer to a ping is wrong: {frame:02x?}");
                ensure!(frame[26..34] == [&ADDRESSES[4..], &ADDRESSES[..4]].concat(), "{frame:02x?}");
                answers += 1;
            }
        }
        Ok(answers)
    }
}

/// RFC 826
fn arp_request() -> Vec<u8> {
    let head = [&[0xff; 6][..], &ROUTER, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]].concat();
    let mut frame = [&head, &ROUTER[..], &ADDRESSES[..4], &[0; 6], &ADDRESSES[4..]].concat();
    frame.resize(60, 0);
    frame
}

/// RFC 791, RFC 792
fn echo_request(mac: [u8; 6], number: u16) -> Vec<u8> {
    let mut message = [&[8, 0, 0, 0, 0, 7][..], &number.to_be_bytes(), DATA].concat();
    let check = sum(&message).to_be_bytes();
    message[2..4].copy_from_slice(&check);
    let mut header = [&[0x45, 0, 0, 44, 0, 0, 0, 0, 64, 1, 0, 0][..], &ADDRESSES].concat();
    let check = sum(&header).to_be_bytes();
    header[10..12].copy_from_slice(&check);
    let mut frame = [&mac[..], &ROUTER, &[8, 0], &header, &message].concat();
    frame.resize(60, 0);
    frame
}

/// The Internet checksum of `bytes`, an even number of them. RFC 1071
fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
