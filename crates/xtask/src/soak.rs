//! `cargo xtask soak`: runs disks, connections and reconnects on both hosts, on QEMU with hot plug and link changes, again and again,
//! and checks each time that nothing was lost.

use crate::guest::{Machine, Transcript};
use crate::image::DISK1;
use crate::lab::{Lab, Unavailable};
use crate::qmp::Qmp;
use crate::scratch::Scratch;
use crate::serve::Fixture;
use crate::{image, kernel, tools};
use anyhow::{Result, ensure};
use clap::Args;
use serde_json::json;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The pause between two disturbances.
const PAUSE: Duration = Duration::from_millis(300);

#[derive(Args)]
pub struct Options {
    /// Minutes to run; a round that has begun is finished
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=10_080))]
    minutes: u64,
}

/// What all rounds share.
struct Soak {
    kernel: PathBuf,
    tree: PathBuf,
    ext4: PathBuf,
    folder: PathBuf,
    port: u16,
    end: Instant,
    has_failed: AtomicBool,
}

pub fn run(options: &Options) -> Result<()> {
    tools::need_qemu()?;
    println!("building the kernel");
    let kernel = kernel::build()?;
    let Fixture { folder, tree, ext4, server } = Fixture::new()?;
    let soak = Soak {
        kernel,
        tree,
        ext4,
        folder: folder.path().into(),
        port: server.port,
        end: Instant::now() + Duration::from_secs(options.minutes * 60),
        has_failed: AtomicBool::new(false),
    };
    let lab = match Lab::open() {
        Ok(lab) => Some(lab),
        Err(error) if error.is::<Unavailable>() => {
            println!("soak: no rounds on Hyper-V: {error}");
            None
        }
        Err(error) => return Err(error),
    };
    let (first, second) = std::thread::scope(|scope| {
        let on_hyperv = scope.spawn(|| match &lab {
            Some(lab) => soak.repeat("Hyper-V", |number| soak.hyperv(lab, number)),
            None => Ok(0),
        });
        let on_qemu = soak.repeat("QEMU", |number| soak.qemu(number));
        (on_qemu, on_hyperv.join())
    });
    let (first, second) = (first?, second.map_err(|_| anyhow::anyhow!("a thread panicked"))??);
    println!("verdict: {first} rounds on QEMU and {second} on Hyper-V, nothing was lost");
    Ok(())
}

impl Soak {
    /// Repeats a round until the time is up, or the other host has failed; returns how many passed.
    fn repeat(&self, host: &str, round: impl Fn(u32) -> Result<String>) -> Result<u32> {
        let mut passed = 0;
        while Instant::now() < self.end && !self.has_failed.load(Ordering::Relaxed) {
            let start = Instant::now();
            match round(passed) {
                Ok(what) => {
                    passed += 1;
                    println!("soak: {host} round {passed} ok, {} s: {what}", start.elapsed().as_secs());
                }
                Err(error) => {
                    self.has_failed.store(true, Ordering::Relaxed);
                    return Err(error.context(format!("{host}: round {} failed", passed + 1)));
                }
            }
        }
        Ok(passed)
    }

    fn disk1(&self, name: &str) -> Result<PathBuf> {
        let path = self.folder.join(name);
        File::create(&path)?.set_len(DISK1)?;
        Ok(path)
    }

    /// A round on QEMU: while the disks are read and written and a file is fetched, a disk is added and removed, and the link goes
    /// down and up.
    fn qemu(&self, number: u32) -> Result<String> {
        let disk1 = self.disk1("qemu1.img")?;
        let props =
            ["", ",packed=on", ",indirect_desc=off", ",event_idx=off,queue_reset=off"][number as usize % 4];
        let socket = self.folder.join("soak-qmp");
        let mut machine = Machine::new(&self.kernel, "q35", 2, "512M");
        machine.drive("d0", &self.ext4, ",readonly=on").drive("d1", &disk1, ",discard=unmap");
        for drive in ["d0", "d1"] {
            machine.add(&format!("-device virtio-blk-pci,drive={drive},num-queues=2{props}"));
        }
        machine.add(&format!("-netdev user,id=n0 -device virtio-net-pci,netdev=n0,id=card{props}"));
        machine.add(&format!("-device virtio-rng-pci{props} -device virtio-scsi-pci,id=s0{props}"));
        for name in ["stays", "comes"] {
            machine.add(&format!("-blockdev driver=null-co,node-name={name},size=8388608,read-zeroes=on"));
        }
        machine.add("-device scsi-hd,drive=stays,bus=s0.0");
        machine.qmp = Some(socket.clone());
        machine.command_line = format!(
            "reconnect=3 entropy=64 mount=disk0 test=disk1 dhcp ping http=http://10.0.2.2:{}/large.bin idle=4",
            self.port
        );
        let done = AtomicBool::new(false);
        let (transcript, disturbances) = std::thread::scope(|scope| -> Result<_> {
            let mut running = machine.start()?;
            let mut disturber = None;
            let read = loop {
                match running.line() {
                    Ok(Some(line)) if line.starts_with("mount=disk0 label") && disturber.is_none() => {
                        let (socket, done) = (&socket, &done);
                        disturber = Some(scope.spawn(move || disturb(socket, done)));
                    }
                    Ok(Some(line)) if line.starts_with("idle=end") => done.store(true, Ordering::Relaxed),
                    Ok(Some(_)) => {}
                    other => break other.map(drop),
                }
            };
            done.store(true, Ordering::Relaxed);
            let disturbances = disturber.map_or(Ok(0), |d| d.join().unwrap_or(Ok(0)));
            read?;
            Ok((running.finish()?, disturbances?))
        })?;
        self.check(&transcript, &disk1)?;
        ensure!(disturbances > 0, "nothing happened to the machine:\n{}", transcript.text());
        Ok(format!("{disturbances} disturbances, devices with `{}`", props.trim_start_matches(',')))
    }

    /// A round on the emulation of Hyper-V: all devices are closed and opened again, then read, written and fetched from.
    fn hyperv(&self, lab: &Lab, number: u32) -> Result<String> {
        let folder = Scratch::new()?;
        let (disk0, disk1) = (folder.path().join("disk0.img"), folder.path().join("disk1.img"));
        std::fs::copy(&self.ext4, &disk0)?;
        File::create(&disk1)?.set_len(DISK1)?;
        let version = ["5.3", "5.2", "4.1", "4.0"][number as usize % 4];
        // The outer machine has only the folder of the round.
        let web = folder.path().join("web");
        image::make_tree(&web)?;
        let words = format!(
            "--cpus 2 --memory 512 --queues 2 --vmbus {version} --disk {},ro --disk {} --net --web {}",
            disk0.display(),
            disk1.display(),
            web.display()
        );
        let mut machine = lab.monitored(&self.kernel, folder.path(), &words)?;
        machine.command_line =
            "reconnect=3 mount=disk0 test=disk1 dhcp ping http=http://10.0.2.2/large.bin clock idle=1".into();
        let transcript = machine.run(|_| ())?;
        self.check(&transcript, &disk1)?;
        Ok(format!("VMBus up to {version}"))
    }

    fn check(&self, transcript: &Transcript, disk1: &Path) -> Result<()> {
        let text = || transcript.text();
        ensure!(transcript.exit == Some(0), "the kernel's exit code is {:?}:\n{}", transcript.exit, text());
        let mut expected = image::expected_files(&self.tree)?;
        expected.push(image::expected_page(&self.tree)?);
        for line in expected {
            ensure!(transcript.lines.contains(&line), "missing: {line}\n{}", text());
        }
        let is_clean =
            |line: &String| line.starts_with("reconnect=3") && line.ends_with("different=0 lost_pages=0");
        ensure!(transcript.lines.iter().any(is_clean), "memory or devices were lost:\n{}", text());
        image::check_pattern(disk1, DISK1)
    }
}

/// Disturbs the machine until it is `done`; returns how often.
fn disturb(socket: &Path, done: &AtomicBool) -> Result<u32> {
    let mut qmp = Qmp::connect(socket)?;
    let (mut times, mut is_there) = (0, false);
    while !done.load(Ordering::Relaxed) {
        // The machine may end at any time.
        let disk = json!({ "driver": "scsi-hd", "id": "hot", "drive": "comes", "bus": "s0.0", "scsi-id": 2 });
        let result = match times % 3 {
            0 if !is_there => qmp.execute("device_add", disk).map(|_| is_there = true),
            1 if is_there => qmp
                .execute("device_del", json!({ "id": "hot" }))
                .and_then(|_| qmp.event("DEVICE_DELETED"))
                .map(|_| is_there = false),
            // Short enough that a lost frame is sent again in time.
            _ => link(&mut qmp, false).and_then(|()| {
                std::thread::sleep(PAUSE / 10);
                link(&mut qmp, true)
            }),
        };
        if let Err(error) = result {
            if done.load(Ordering::Relaxed) {
                break;
            }
            // The kernel may have ended after the last look.
            std::thread::sleep(Duration::from_secs(1));
            return if done.load(Ordering::Relaxed) { Ok(times) } else { Err(error) };
        }
        times += 1;
        std::thread::sleep(PAUSE);
    }
    Ok(times)
}

fn link(qmp: &mut Qmp, is_up: bool) -> Result<()> {
    qmp.execute("set_link", json!({ "name": "card", "up": is_up })).map(drop)
}
