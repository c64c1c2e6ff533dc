//! A host with Hyper-V's interface: KVM's own emulation of it, with QEMU's VMBus on top.
//!
//! Where this machine's KVM has it, the guest runs there. Else it runs as a nested VM: QEMU emulates a processor
//! with AMD's virtualisation, Debian's kernel gives that a KVM, and a second QEMU runs on it.

mod archive;
mod build;

use crate::guest::{Machine, Monitor, Nest};
use crate::{kernel, tools};
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

/// What of Hyper-V the guest sees.
const FEATURES: &str = "kvm=off,hv-relaxed,hv-vapic,hv-time,hv-vpindex,hv-synic,hv-stimer,hv-stimer-direct,hv-runtime,hv-reset,\
     hv-frequencies,hv-crash,hv-tlbflush,hv-ipi";

/// This machine cannot have such a host, and why.
#[derive(Debug)]
pub struct Unavailable(pub String);

impl std::fmt::Display for Unavailable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unavailable {}

/// The way to such a host.
#[derive(Clone, Debug)]
pub enum Lab {
    /// This machine's KVM.
    Direct,
    /// A nested VM; these are the files of the outer one.
    Nested(build::Files),
}

impl Lab {
    /// Finds or makes it.
    ///
    /// # Errors
    ///
    /// [`Unavailable`] where this machine cannot have one; anything else is a fault.
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
            println!("lab: this machine's KVM has Hyper-V's interface");
            return Ok(Self::Direct);
        }
        Ok(Self::Nested(build::build()?))
    }

    /// The lab with a nested VM, even where this machine's KVM would do: for cases whose host must have modules loaded and services running.
    pub fn nested(&self) -> Result<Self> {
        Ok(match self {
            Self::Direct => Self::Nested(build::build()?),
            Self::Nested(files) => Self::Nested(files.clone()),
        })
    }

    /// A machine on this host, with VMBus and nothing on it. All files that it uses are in `share`.
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

    /// A machine on KVM with this processor, and nothing on it.
    pub fn bare(&self, kernel: &Path, machine: &str, processor: &str, share: &Path) -> Result<Machine> {
        self.with(kernel, machine, processor, 1, "256M", share)
    }

    /// A machine under our own monitor with these words: Hyper-V's interface, and VMBus with our models on it. All files that it
    /// uses are in `share`.
    pub fn monitored(&self, kernel: &Path, share: &Path, words: &str) -> Result<Machine> {
        let binary = kernel::monitor()?;
        let mut machine = self.bare(kernel, "q35", "host", share)?;
        let mut program = binary.clone();
        if machine.nest.is_some() {
            // With the libraries that it was built with.
            tools::copy_program(&binary, share)?;
            machine.prepare = format!("export LD_LIBRARY_PATH='{}'", share.join("lib").display());
            program = share.join("paravirt-monitor");
        }
        let words = words.split_whitespace().map(String::from);
        let all = std::iter::once(program.display().to_string()).chain(words).collect();
        machine.monitor = Monitor::Ours(all);
        Ok(machine)
    }

    /// The files of a Linux guest: kernel and first file system.
    pub fn linux(&self) -> Result<(PathBuf, PathBuf)> {
        let files = match self {
            Self::Direct => build::build()?,
            Self::Nested(files) => files.clone(),
        };
        Ok((files.kernel, files.guest))
    }

    /// The files of a Linux guest that measures disk and network and switches off: its kernel, and its first file system, which is
    /// written to `initrd`. Its command line says `rdinit=/bench`, `bus=vmbus` or `bus=virtio`, `echo=ADDRESS:PORT` for an echo
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
        let nest = match self {
            Self::Direct => None,
            Self::Nested(files) => {
                let inside = share.join("kernel.elf");
                if !inside.is_file() {
                    std::fs::copy(kernel, &inside)?;
                }
                Some(Nest { kernel: files.kernel.clone(), initrd: files.initrd.clone(), share: share.into() })
            }
        };
        let elf = if nest.is_some() { share.join("kernel.elf") } else { kernel.into() };
        let mut machine = Machine::with(&elf, machine, &format!("kvm -cpu {processor}"), cpus, memory);
        // There is no boot ROM for a card there, and no need of one.
        machine.add("-global virtio-net-pci.romfile=");
        machine.nest = nest;
        machine.timeout = Duration::from_secs(120);
        Ok(machine)
    }
}

/// Whether this machine's KVM gives guests Hyper-V's interface with SynIC: QEMU refuses to start one where not.
fn has_hyperv() -> bool {
    if !Path::new("/dev/kvm").exists() {
        return false;
    }
    let words = format!(
        "-nodefaults -no-user-config -display none -M pc -accel kvm -cpu host,{FEATURES} -device vmbus-bridge -S -monitor stdio"
    );
    tools::answers("qemu-system-x86_64", &words, "quit\n", Duration::from_secs(20))
}
