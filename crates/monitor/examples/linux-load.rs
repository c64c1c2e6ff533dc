//! The example kernel's options `bench=write`, `round-trips=` and `http=` as a program for Linux, with the same numbers of requests
//! and the same output: `linux-load bench=/dev/sda`, `linux-load round-trips=10.0.2.2:7 http=http://10.0.2.2/file`.
//!
//! The disk is accessed by io_uring, without the page cache. Its content is lost.

use anyhow::{Context, Result, bail, ensure};
use io_uring::{IoUring, opcode, squeue, types};
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

const REQUEST: usize = 4096;
const REQUESTS: u64 = 2000;
const FLUSHES: u64 = 100;
const DEPTH: usize = 32;
const TRIPS: u64 = 500;
const TRIP: usize = 64;

/// A buffer with the alignment that direct I/O needs.
#[derive(Clone)]
#[repr(C, align(4096))]
struct Buffer([u8; REQUEST]);

/// The kind of a part's requests.
#[derive(Copy, Clone, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    Flush,
}

struct Disk {
    file: File,
    slots: u64,
    ring: IoUring,
    buffers: Vec<Buffer>,
}

impl Disk {
    fn open(path: &str) -> Result<Self> {
        let mut file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(path)?;
        let slots = file.seek(SeekFrom::End(0))? / REQUEST as u64;
        ensure!(slots > 0, "the disk has fewer than {REQUEST} bytes");
        let buffers = vec![Buffer([0; REQUEST]); DEPTH];
        Ok(Self { file, slots, ring: IoUring::new(DEPTH as u32)?, buffers })
    }

    /// Returns the submission entry of request `number`, with the buffer at index `at`.
    fn entry(&mut self, kind: Kind, number: u64, at: usize) -> squeue::Entry {
        let fd = types::Fd(self.file.as_raw_fd());
        let place = number % self.slots * REQUEST as u64;
        let buffer = self.buffers[at].0.as_mut_ptr();
        let entry = match kind {
            Kind::Read => opcode::Read::new(fd, buffer, REQUEST as u32).offset(place).build(),
            Kind::Write => opcode::Write::new(fd, buffer, REQUEST as u32).offset(place).build(),
            Kind::Flush => opcode::Fsync::new(fd).build(),
        };
        entry.user_data(at as u64)
    }

    /// Runs `requests` requests, up to `depth` of them in flight.
    fn run(&mut self, kind: Kind, requests: u64, depth: usize) -> Result<()> {
        let mut free: Vec<usize> = (0..depth).collect();
        let expected = if kind == Kind::Flush { 0 } else { REQUEST as i32 };
        let (mut sent, mut done) = (0, 0);
        while done < requests {
            while sent < requests
                && let Some(at) = free.pop()
            {
                let entry = self.entry(kind, sent, at);
                // SAFETY: the buffer lives as long as the ring, and is not accessed until the request is completed.
                unsafe { self.ring.submission().push(&entry)? }
                sent += 1;
            }
            self.ring.submit_and_wait(1)?;
            for completion in self.ring.completion() {
                let result = completion.result();
                ensure!(result == expected, "a request returned {result}, expected {expected}");
                free.push(completion.user_data() as usize);
                done += 1;
            }
        }
        Ok(())
    }

    /// Runs a part and prints how long it took.
    fn part(&mut self, name: &str, kind: Kind, requests: u64, depth: usize) -> Result<()> {
        println!("bench={name} begin");
        let before = disk_interrupts()?;
        let start = Instant::now();
        self.run(kind, requests, depth)?;
        let micros = start.elapsed().as_micros();
        let interrupts = disk_interrupts()?.zip(before).map(|(after, before)| after - before);
        let interrupts = interrupts.map_or(String::new(), |count| format!(" interrupts={count}"));
        println!("bench={name} end requests={requests} micros={micros}{interrupts}");
        Ok(())
    }
}

/// What the interrupts of disks are called, those on VMBus apart, which have none of their own.
const DISKS: [&str; 3] = ["virtio", "vmw_pvscsi", "blkif"];

/// Interrupts of disks so far, on all processors; `None` without such a disk.
fn disk_interrupts() -> Result<Option<u64>> {
    let text = std::fs::read_to_string("/proc/interrupts")?;
    let mut counts = text.lines().filter(|line| DISKS.iter().any(|name| line.contains(name))).map(|line| {
        // The number of the interrupt, then a count for each processor, then words.
        line.split_whitespace().skip(1).map_while(|word| word.parse::<u64>().ok()).sum::<u64>()
    });
    Ok(counts.next().map(|first| first + counts.sum::<u64>()))
}

fn bench(path: &str) -> Result<()> {
    let mut disk = Disk::open(path).with_context(|| format!("cannot open {path}"))?;
    disk.run(Kind::Read, 1, 1)?;
    let text = std::fs::read_to_string("/proc/uptime")?;
    let uptime: f64 = text.split(' ').next().unwrap_or_default().parse()?;
    println!("bench=boot micros={}", Duration::from_secs_f64(uptime).as_micros());
    disk.part("read-depth1", Kind::Read, REQUESTS, 1)?;
    disk.part("read-depth32", Kind::Read, REQUESTS, DEPTH)?;
    disk.part("write-depth32", Kind::Write, REQUESTS, DEPTH)?;
    disk.part("flush", Kind::Flush, FLUSHES, 1)
}

fn round_trips(server: &str) -> Result<()> {
    let mut stream = TcpStream::connect(server)?;
    stream.set_nodelay(true)?;
    let start = Instant::now();
    for trip in 0..TRIPS {
        let sent = [trip as u8; TRIP];
        let mut back = [0; TRIP];
        stream.write_all(&sent)?;
        stream.read_exact(&mut back)?;
        ensure!(back == sent, "the echo differs");
    }
    println!("round-trips=done count={TRIPS} micros={}", start.elapsed().as_micros());
    Ok(())
}

/// Fetches `url` and prints the SHA-256 of the body, as the kernel does.
fn http(url: &str) -> Result<()> {
    let rest = url.strip_prefix("http://").context("the URL does not begin with http://")?;
    let (host, path) = rest.split_once('/').context("the URL has no path")?;
    let server = if host.contains(':') { host.into() } else { format!("{host}:80") };
    let start = Instant::now();
    let mut stream = TcpStream::connect(server)?;
    write!(stream, "GET /{path} HTTP/1.0\r\nHost: {host}\r\n\r\n")?;
    let (mut head, mut chunk) = (vec![], vec![0; 64 << 10]);
    let body = loop {
        let count = stream.read(&mut chunk)?;
        ensure!(count > 0, "not an HTTP response");
        head.extend_from_slice(&chunk[..count]);
        if let Some(at) = head.windows(4).position(|window| window == b"\r\n\r\n") {
            break head.split_off(at + 4);
        }
    };
    ensure!(head.starts_with(b"HTTP/1.") && head.get(9..12) == Some(b"200"), "the status is not 200");
    let (mut hash, mut size) = (Sha256::new(), body.len());
    hash.update(body);
    while let count @ 1.. = stream.read(&mut chunk)? {
        hash.update(&chunk[..count]);
        size += count;
    }
    let sum: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    println!("http=done size={size} micros={} sha256={sum}", start.elapsed().as_micros());
    Ok(())
}

fn main() -> Result<()> {
    for word in std::env::args().skip(1) {
        match word.split_once('=') {
            Some(("bench", path)) => bench(path)?,
            Some(("round-trips", server)) => round_trips(server)?,
            Some(("http", url)) => http(url)?,
            _ => bail!("unknown argument {word}: use bench=DEVICE, round-trips=ADDRESS:PORT or http=URL"),
        }
    }
    Ok(())
}
