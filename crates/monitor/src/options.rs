//! The command line.

use crate::input_script::InputScript;
use crate::peer::Peer;
use crate::ports::Action;
use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use hyperv_bindings::vmbus::VmbusVersion;
use paravirt_testhost::{NetVspHost, StorDrive, StorHost};
use std::fs::{OpenOptions, TryLockError};
use std::path::PathBuf;

/// Boots a kernel on KVM with an emulation of Hyper-V and devices on VMBus.
///
/// The first serial port (COM1) is standard output. The exit code is 2 * value + 1 for a value written to port 0xf4 (as with
/// QEMU's isa-debug-exit), 0 when the guest powers off or requests a reset, 2 for a fault.
#[derive(Parser)]
#[command(version)]
pub struct Options {
    /// Number of processors
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub cpus: u32,
    /// Size of memory in MiB
    #[arg(long, default_value_t = 512, value_name = "MIB", value_parser = clap::value_parser!(u64).range(16..=1 << 24))]
    pub memory: u64,
    /// Initrd of a Linux guest
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,
    /// Raw image of a disk on the SCSI controller; `,ro` and `,block=4096` may follow
    #[arg(long, value_name = "FILE")]
    disk: Vec<String>,
    /// Image of a DVD-ROM on the SCSI controller
    #[arg(long, value_name = "FILE")]
    dvd: Vec<PathBuf>,
    /// Add a network card, connected to a router with DHCP, ping, echo and HTTP servers
    #[arg(long)]
    net: bool,
    /// Folder whose files the router serves
    #[arg(long, value_name = "FOLDER", requires = "net")]
    web: Option<PathBuf>,
    /// Ping the guest at the address that is leased to it, until it has answered this many times
    #[arg(long, default_value_t = 0, requires = "net")]
    ping: u16,
    /// Newest version of VMBus to accept, such as 4.0
    #[arg(long, value_name = "VERSION", value_parser = version)]
    vmbus: Option<VmbusVersion>,
    /// Maximum number of queues of the controller and the card
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=8))]
    queues: u16,
    /// Type this text and Escape, and click in the middle of the screen, when the guest has written the text of `--type-at`
    #[arg(long, value_name = "TEXT", requires = "type_at")]
    pub type_text: Option<String>,
    /// Text in the guest's output that starts `--type-text`
    #[arg(long, value_name = "TEXT", requires = "type_text")]
    pub type_at: Option<String>,
    /// Request a shutdown through the integration service when the guest has written this text
    #[arg(long, value_name = "TEXT")]
    pub shutdown_at: Option<String>,
    /// Print the counts of hypercalls, signals and interrupts whenever the guest has written a line with this text
    #[arg(long, value_name = "TEXT")]
    count_at: Option<String>,
    /// Kernel: an ELF file with a PVH note, or a bzImage
    pub kernel: PathBuf,
    /// Command line of the kernel
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub append: Vec<String>,
}

fn version(text: &str) -> Result<VmbusVersion, String> {
    let parts = text
        .split_once('.')
        .and_then(|(major, minor)| Some((major.parse::<u16>().ok()?, minor.parse::<u16>().ok()?)));
    let (major, minor) = parts.ok_or("a version is MAJOR.MINOR, such as 4.0")?;
    Ok(VmbusVersion(u32::from(major) << 16 | u32::from(minor)))
}

impl Options {
    /// Returns the texts to look for in the guest's output, each with its action.
    pub fn triggers(&self) -> Vec<(String, Action)> {
        let actions = [
            (&self.shutdown_at, Action::Shutdown),
            (&self.type_at, Action::Type),
            (&self.count_at, Action::PrintCounts),
        ];
        actions.into_iter().filter_map(|(text, action)| Some((text.clone()?, action))).collect()
    }

    /// Returns keyboard and mouse with their input, if the options ask for them.
    pub fn input(&self) -> Result<Option<InputScript>> {
        self.type_text.as_deref().map(InputScript::new).transpose()
    }

    /// Returns the newest version of VMBus to accept; 0 for all.
    pub fn vmbus(&self) -> VmbusVersion {
        self.vmbus.unwrap_or(VmbusVersion(0))
    }

    /// Opens the images and returns the SCSI controller, or `None` without disks.
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
                    _ => bail!("unknown option {word} of a disk: use ro, block=512 or block=4096"),
                }
            }
            let metadata = std::fs::metadata(path).with_context(|| format!("cannot open {path}"))?;
            ensure!(metadata.is_file(), "{path} is not a file: give a raw disk image");
            let file = OpenOptions::new().read(true).write(!is_read_only).open(path);
            let file = file.with_context(|| format!("cannot open {path}"))?;
            let locked = if is_read_only { file.try_lock_shared() } else { file.try_lock() };
            match locked {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    bail!("{path} is in use by another machine: end that, or add ,ro to both")
                }
                // The file system has no locks.
                Err(TryLockError::Error(error)) => log_line!("{path} cannot be locked: {error}"),
            }
            let len = metadata.len();
            ensure!(
                len > 0 && len.is_multiple_of(u64::from(block)),
                "{path} has {len} bytes, which is not a positive multiple of the block size {block}"
            );
            let mut drive = StorDrive::file(block, file)?;
            drive.is_read_only = is_read_only;
            drive.name[15] = drives.len() as u8;
            drive.serial = format!("paravirt{}", drives.len());
            drives.push(drive);
        }
        for path in &self.dvd {
            let medium = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            ensure!(
                !medium.is_empty() && medium.len().is_multiple_of(2048),
                "{} has {} bytes: the image of a DVD has a positive multiple of 2048",
                path.display(),
                medium.len()
            );
            drives.push(StorDrive::optical(medium));
        }
        ensure!(drives.len() <= 64, "more than 64 disks: a controller has 64 units");
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

    /// Returns the network card and the router that it is connected to, if the options ask for them.
    pub fn card(&self) -> Result<Option<(NetVspHost, Peer)>> {
        if let Some(folder) = &self.web {
            ensure!(folder.is_dir(), "{} is not a folder", folder.display());
        }
        let card = NetVspHost::new();
        card.fault_config(|fault_config| {
            (fault_config.mtu, fault_config.queues, fault_config.lacks_offloads) =
                (1500, self.queues.into(), true);
        });
        Ok(self.net.then(|| (card, Peer::new(self.web.clone(), self.ping))))
    }
}
