//! The hosts of Xen's family: QEMU's devices of Xen on KVM, and Xen itself.

use super::{Host, NESTED_PORT, Options, boot, bring_disk, verify};
use crate::guest::{Machine, Transcript};
use crate::image::{self, DISK1};
use crate::lab::Lab;
use crate::lab::xen::RealXen;
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::time::Duration;

/// Adds two disks of Xen to a machine on KVM, of which the first is read-only, and a card; and for a nested machine the server of the files
/// in `tree`, at [`NESTED_PORT`].
pub fn add_devices(machine: &mut Machine, tree: &Path, [disk0, disk1]: [&Path; 2], has_card: bool) {
    if machine.nest.is_some() {
        machine.prepare = format!("httpd -p 127.0.0.1:{NESTED_PORT} -h '{}'", tree.display());
    }
    machine.drive("d0", disk0, ",readonly=on").drive("d1", disk1, ",discard=unmap");
    machine.add("-device xen-disk,drive=d0,vdev=xvda -device xen-disk,drive=d1,vdev=xvdb");
    if has_card {
        machine.add("-netdev user,id=n0 -device xen-net-device,netdev=n0,mac=52:54:00:12:34:56");
    }
}

/// Boots the kernel on QEMU's devices of Xen, on KVM, and checks its output.
pub(super) fn on_kvm(
    options: &Options,
    elf: &Path,
    tree: &Path,
    [disk0, disk1]: [&Path; 2],
    port: u16,
) -> Result<Transcript> {
    let folder = disk0.parent().context("the disk image has no folder")?;
    bring_disk(options, disk0)?;
    let memory = format!("{}M", options.memory);
    let kind = options.machine.as_deref().unwrap_or("q35");
    let mut machine = Lab::open()?.xen(elf, kind, "", options.cpus, &memory, folder)?;
    let port = if machine.nest.is_some() { NESTED_PORT } else { port };
    add_devices(&mut machine, tree, [disk0, disk1], !options.no_nic);
    options.qemu.iter().for_each(|words| {
        machine.add(words);
    });
    let network = if options.no_nic {
        String::new()
    } else {
        format!(" dhcp ping http=http://10.0.2.2:{port}/large.bin")
    };
    let usual = format!("list mount=disk0 test=disk1{network} clock");
    boot(options, Host::Xen, machine, usual, tree, disk1)
}

/// Boots the kernel on Xen, as a guest of kind PVH, and checks its output.
pub(super) fn on_xen(options: &Options, elf: &Path, tree: &Path, disk0: &Path) -> Result<Transcript> {
    let folder = disk0.parent().context("the disk image has no folder")?;
    let first = options.disk.as_deref().unwrap_or(disk0);
    let network =
        if options.no_nic { "" } else { " ip=10.9.0.2/24 gw=10.9.0.1 ping http=http://10.9.0.1/large.bin" };
    let usual = format!("list mount=disk0 test=disk1{network} clock");
    let words = options.args.clone().unwrap_or(usual);
    ensure!(
        !words.contains(['"', '\'', '\\', '$', '`']),
        "the command line has a character that xl's configuration cannot have"
    );
    let card = if options.no_nic { "" } else { "'bridge=bridge,mac=00:16:3e:00:00:01'" };
    let script = format!(
        "truncate -s {DISK1} /root/disk1.img\n\
         memory={}\n\
         configure guest {} \"{words}\" \"'/root/disk0.img,raw,xvda,r', '/root/disk1.img,raw,xvdb,w'\" \"{card}\"\n\
         follow guest\n\
         await guest '^exit=' {}\n\
         sleep 1\n\
         echo \"disk1: $(sha256sum < /root/disk1.img)\"\n",
        options.memory, options.cpus, options.timeout,
    );
    let page = tree.join("large.bin");
    let files = [("kernel", elf), ("disk0.img", first), ("large.bin", &page)];
    let mut machine = RealXen::open()?.machine(&script, &files, folder)?;
    options.qemu.iter().for_each(|words| {
        machine.add(words);
    });
    // The first domain takes its time.
    machine.timeout = Duration::from_secs(options.timeout.saturating_add(300));
    println!("booting Xen, and then: {words}");
    let all = machine.run(|line| println!("  {line}"))?;
    let transcript = all.of_guest("guest");
    verify(options, Host::XenReal, &transcript, tree, || {
        let wanted = format!("disk1: {}", image::pattern_sum(DISK1));
        let is_there = all.lines.iter().any(|line| line.starts_with(&wanted));
        ensure!(is_there, "disk1 has not the test's pattern");
        Ok(())
    })?;
    Ok(transcript)
}
