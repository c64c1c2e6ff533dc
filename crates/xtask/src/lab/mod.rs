//! A host with KVM's emulation of Hyper-V, on which QEMU or `paravirt-monitor` provides VMBus.
//!
//! If this machine's KVM has the emulation, the guest runs on it. Otherwise it runs as a nested VM: QEMU emulates a processor with
//! AMD's virtualisation, which runs Debian's kernel with KVM, on which the guest runs.

mod archive;
mod build;
mod device_model;
pub mod xen;

use crate::guest::{Machine, Monitor, Nest};
use crate::scratch::Scratch;
use crate::{kernel, tools};
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

/// The Hyper-V enlightenments of the guest.
const FEATURES: &str = "kvm=off,hv-relaxed,hv-vapic,hv-time,hv-vpindex,hv-synic,hv-stimer,hv-stimer-direct,hv-runtime,hv-reset,\
     hv-frequencies,hv-crash,hv-tlbflush,hv-ipi";

/// The error that this machine cannot run such a host, with the reason.
#[derive(Debug)]
pub struct Unavailable(pub String);

impl std::fmt::Display for Unavailable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unavailable {}

/// How such a host is run.
#[derive(Clone, Debug)]
pub enum Lab {
    /// This machine's KVM.
    Direct,
    /// A nested VM, with the files of the outer one.
    Nested(build::Files),
}

impl Lab {
    /// Opens the lab; builds the outer machine if it is needed.
    ///
    /// # Errors
    ///
    /// [`Unavailable`] if this machine cannot run such a host; other errors are faults.
    pub fn open() -> Result<Self> {
        static LAB: OnceLock<std::result::Result<Lab, (bool, String)>> = OnceLock::new();
        let found = LAB
            .get_or_init(|| Self::make().map_err(|error| (error.is::<Unavailable>(), format!("{error:#}"))));
        found.clone().map_err(|(is_unavailable, text)| match is_unavailable {
            true => anyhow::Error::new(Unavailable(text)),
            false => anyhow::Error::msg(text),
        })
    }

    fn make() -> Result<Self> {
        tools::need_qemu()?;
        if has_hyperv() {
            println!("lab: this machine's KVM emulates Hyper-V");
            return Ok(Self::Direct);
        }
        Ok(Self::Nested(build::build()?))
    }

    /// Returns the lab with a nested VM, even if this machine's KVM would do: for cases whose host needs kernel modules and services.
    pub fn nested(&self) -> Result<Self> {
        Ok(match self {
            Self::Direct => Self::Nested(build::build()?),
            Self::Nested(files) => Self::Nested(files.clone()),
        })
    }

    /// Creates a machine with QEMU's VMBus and no devices. All files that it uses are in `share`.
    pub fn machine(
        &self,
        kernel: &Path,
        machine: &str,
        cpus: u16,
        memory: &str,
        share: &Path,
    ) -> Result<Machine> {
        if !tools::has_device("hv-balloon") || !tools::has_device("vmbus-bridge") {
            bail!(Unavailable(
                "this QEMU has no vmbus-bridge or no hv-balloon: install QEMU 8.2 or later (Debian 12 has it in its backports)"
                    .into()
            ));
        }
        let mut machine = self.with(kernel, machine, &format!("host,{FEATURES}"), cpus, memory, share)?;
        machine.add("-device vmbus-bridge");
        Ok(machine)
    }

    /// Creates a machine on KVM with this processor model and no devices.
    pub fn bare(&self, kernel: &Path, machine: &str, processor: &str, share: &Path) -> Result<Machine> {
        self.with(kernel, machine, processor, 1, "256M", share)
    }

    /// Creates a machine on KVM's emulation of Xen, without devices. All files that it uses are in `share`. `more` are properties of the
    /// processor, each with a comma ahead.
    pub fn xen(
        &self,
        kernel: &Path,
        machine: &str,
        more: &str,
        cpus: u16,
        memory: &str,
        share: &Path,
    ) -> Result<Machine> {
        if !tools::has_device("xen-disk") || !tools::has_device("xen-net-device") {
            bail!(Unavailable(
                "this QEMU has no devices of Xen: install QEMU 9.0 or later (Debian 12 has it in its backports)".into()
            ));
        }
        let lab = if has_xen() { self.clone() } else { self.nested()? };
        let processor = format!("host{more}");
        let mut machine = lab.on(XEN_ON_KVM, kernel, machine, &processor, cpus, memory, share)?;
        machine.may_crash_at_end = true;
        Ok(machine)
    }

    /// Creates a machine under `paravirt-monitor` with the options in `words`. All files that it uses are in `share`.
    pub fn monitored(&self, kernel: &Path, share: &Path, words: &str) -> Result<Machine> {
        let binary = kernel::monitor()?;
        let mut machine = self.bare(kernel, "q35", "host", share)?;
        let mut program = binary.clone();
        if machine.nest.is_some() {
            // The outer machine has no libraries: they are copied with the program.
            tools::copy_program(&binary, share)?;
            machine.prepare = format!("export LD_LIBRARY_PATH='{}'", share.join("lib").display());
            program = share.join("paravirt-monitor");
        }
        let words = words.split_whitespace().map(String::from);
        let all = std::iter::once(program.display().to_string()).chain(words).collect();
        machine.monitor = Monitor::Ours(all);
        Ok(machine)
    }

    /// Returns the files of a Linux guest: kernel and initrd.
    pub fn linux(&self) -> Result<(PathBuf, PathBuf)> {
        let files = match self {
            Self::Direct => build::build()?,
            Self::Nested(files) => files.clone(),
        };
        Ok((files.kernel, files.guest))
    }

    /// The files of a Linux guest that measures disk and network and switches off: its kernel, and its first file system, which is
    /// written to `initrd`. Its command line says `rdinit=/bench`, `bus=` with a list of its modules, `echo=ADDRESS:PORT` for an echo
    /// server, and `http=URL` for the file to fetch.
    pub fn linux_bench(&self, initrd: &Path) -> Result<PathBuf> {
        let (kernel, guest) = self.linux()?;
        let archives = [std::fs::read(guest)?, build::load(&kernel::linux_load()?)?];
        std::fs::write(initrd, archives.concat())?;
        Ok(kernel)
    }

    fn with(
        &self,
        kernel: &Path,
        machine: &str,
        processor: &str,
        cpus: u16,
        memory: &str,
        share: &Path,
    ) -> Result<Machine> {
        self.on("kvm", kernel, machine, processor, cpus, memory, share)
    }

    #[allow(clippy::too_many_arguments, reason = "each of them is a part of QEMU's command line")]
    fn on(
        &self,
        accelerator: &str,
        kernel: &Path,
        machine: &str,
        processor: &str,
        cpus: u16,
        memory: &str,
        share: &Path,
    ) -> Result<Machine> {
        let nest = match self {
            Self::Direct => None,
            Self::Nested(files) => {
                Scratch::check_plain(share)?;
                let inside = share.join("kernel.elf");
                if !inside.is_file() {
                    std::fs::copy(kernel, &inside)?;
                }
                Some(Nest { kernel: files.kernel.clone(), initrd: files.initrd.clone(), share: share.into() })
            }
        };
        let elf = if nest.is_some() { share.join("kernel.elf") } else { kernel.into() };
        let mut machine =
            Machine::with(&elf, machine, &format!("{accelerator} -cpu {processor}"), cpus, memory);
        // The outer machine has no boot ROM for network cards; none is needed.
        machine.add("-global virtio-net-pci.romfile=");
        machine.nest = nest;
        machine.timeout = Duration::from_secs(400);
        Ok(machine)
    }
}

/// Returns whether this machine's KVM emulates Hyper-V with SynIC: QEMU refuses to start otherwise.
fn has_hyperv() -> bool {
    if !Path::new("/dev/kvm").exists() {
        return false;
    }
    let words = format!(
        "-nodefaults -no-user-config -display none -M pc -accel kvm -cpu host,{FEATURES} -device vmbus-bridge -S -monitor stdio"
    );
    tools::succeeds("qemu-system-x86_64", &words, "quit\n", Duration::from_secs(20))
}

/// QEMU's accelerator for an emulation of Xen 4.17.
const XEN_ON_KVM: &str = "kvm,xen-version=0x40011,kernel-irqchip=split";

/// Returns whether this machine's KVM emulates Xen: QEMU refuses to start otherwise.
fn has_xen() -> bool {
    static HAS_XEN: OnceLock<bool> = OnceLock::new();
    let words = format!(
        "-nodefaults -no-user-config -display none -M pc -accel {XEN_ON_KVM} -cpu host -S -monitor stdio"
    );
    *HAS_XEN.get_or_init(|| {
        let is_there = Path::new("/dev/kvm").exists();
        is_there
            && has_hyperv()
            && tools::succeeds("qemu-system-x86_64", &words, "quit\n", Duration::from_secs(20))
    })
}
