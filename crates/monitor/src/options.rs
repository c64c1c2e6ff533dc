//! The command line.

use crate::peer::Peer;
use crate::ports::Wish;
use crate::typist::Typist;
use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use hyperv_bindings::vmbus::VmbusVersion;
use paravirt_testhost::{NetVspHost, StorDrive, StorHost};
use std::fs::OpenOptions;
use std::path::PathBuf;

/// Boots a kernel on KVM under Hyper-V's interface, with devices on VMBus.
///
/// The serial port (COM1) is standard output. Ends with twice the value written to port 0xf4 and one (as QEMU's isa-debug-exit
/// does), with 0 when the guest switches off or asks for a reset, with 2 when it cannot go on.
#[derive(Parser)]
#[command(version)]
pub struct Options {
    /// Processors
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub cpus: u32,
    /// Memory, in MiB
    #[arg(long, default_value_t = 512, value_name = "MIB", value_parser = clap::value_parser!(u64).range(16..))]
    pub memory: u64,
    /// The first file system of a Linux guest
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,
    /// A disk of a raw image, on one SCSI controller; may be followed by `,ro` and `,block=4096`
    #[arg(long, value_name = "FILE")]
    disk: Vec<String>,
    /// An image as a DVD-ROM
    #[arg(long, value_name = "FILE")]
    dvd: Vec<PathBuf>,
    /// A network card; at its other end a router that leases an address and answers pings, echoes, and HTTP
    #[arg(long)]
    net: bool,
    /// The files that the router serves
    #[arg(long, value_name = "FOLDER", requires = "net")]
    web: Option<PathBuf>,
    /// The newest version of VMBus, such as 4.0
    #[arg(long, value_name = "VERSION", value_parser = version)]
    vmbus: Option<VmbusVersion>,
    /// Queues of the controller and the card, at most
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=8))]
    queues: u16,
    /// Types this text on a keyboard, then Escape, and clicks in the middle of the screen, when the guest has written the text
    /// of `--type-at`
    #[arg(long, value_name = "TEXT", requires = "type_at")]
    pub type_text: Option<String>,
    /// See `--type-text`
    #[arg(long, value_name = "TEXT", requires = "type_text")]
    pub type_at: Option<String>,
    /// Asks the guest to end, by the integration service, when it has written this text
    #[arg(long, value_name = "TEXT")]
    pub shutdown_at: Option<String>,
    /// Says what was counted (hypercalls, signals, interrupts) whenever the guest has written a line with this text
    #[arg(long, value_name = "TEXT")]
    count_at: Option<String>,
    /// An ELF with a PVH note, or a bzImage
    pub kernel: PathBuf,
    /// Words of the kernel's command line
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub append: Vec<String>,
}

fn version(text: &str) -> Result<VmbusVersion, String> {
    let parts = text
        .split_once('.')
        .and_then(|(major, minor)| Some((major.parse::<u16>().ok()?, minor.parse::<u16>().ok()?)));
    let (major, minor) = parts.ok_or("a version has a number, a point and a number")?;
    Ok(VmbusVersion(u32::from(major) << 16 | u32::from(minor)))
}

impl Options {
    /// The texts that are looked for in what the guest writes.
    pub fn watches(&self) -> Vec<(String, Wish)> {
        let wishes =
            [(&self.shutdown_at, Wish::End), (&self.type_at, Wish::Type), (&self.count_at, Wish::Count)];
        wishes.into_iter().filter_map(|(text, wish)| Some((text.clone()?, wish))).collect()
    }

    /// Keyboard and mouse.
    pub fn input(&self) -> Result<Option<Typist>> {
        self.type_text.as_deref().map(Typist::new).transpose()
    }

    pub fn vmbus(&self) -> VmbusVersion {
        self.vmbus.unwrap_or(VmbusVersion(0))
    }

    /// The SCSI controller, if there is something on it.
    pub fn disks(&self) -> Result<Option<StorHost>> {
        let mut drives = vec![];
        for text in &self.disk {
            let mut words = text.split(',');
            let path = words.next().unwrap_or_default();
            let (mut is_read_only, mut block) = (false, 512);
            for word in words {
                match word {
                    "ro" => is_read_only = true,
                    "block=512" => block = 512,
                    "block=4096" => block = 4096,
                    _ => bail!("{word} is no option of a disk: ro, block=512 and block=4096 are"),
                }
            }
            let file = OpenOptions::new().read(true).write(!is_read_only).open(path);
            let file = file.with_context(|| format!("cannot open {path}"))?;
            let len = file.metadata().with_context(|| format!("cannot look at {path}"))?.len();
            ensure!(
                len > 0 && len.is_multiple_of(u64::from(block)),
                "{path} is no image of a disk: its {len} bytes are no whole blocks of {block}"
            );
            let mut drive = StorDrive::file(block, file)?;
            drive.is_read_only = is_read_only;
            drive.name[15] = drives.len() as u8;
            drive.serial = format!("paravirt{}", drives.len());
            drives.push(drive);
        }
        for path in &self.dvd {
            let medium = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            drives.push(StorDrive::optical(medium));
        }
        ensure!(drives.len() <= 64, "more than 64 disks");
        if drives.is_empty() {
            return Ok(None);
        }
        let controller = StorHost::new();
        controller.set_further(self.queues - 1);
        for (lun, drive) in drives.into_iter().enumerate() {
            controller.insert(lun as u8, drive);
        }
        Ok(Some(controller))
    }

    /// The network card.
    pub fn card(&self) -> Result<Option<(NetVspHost, Peer)>> {
        if let Some(folder) = &self.web {
            ensure!(folder.is_dir(), "{} is no folder", folder.display());
        }
        let card = NetVspHost::new();
        card.fault_config(|fault_config| {
            (fault_config.mtu, fault_config.queues, fault_config.lacks_offloads) =
                (1500, self.queues.into(), true);
        });
        Ok(self.net.then(|| (card, Peer::new(self.web.clone()))))
    }
}
