//! The hosts of Xen's family: QEMU's devices of Xen on KVM, and Xen itself.

use super::{DISK1, Host, NESTED_PORT, Options, verify, verify_lines};
use crate::guest::Transcript;
use crate::image;
use crate::lab::Lab;
use crate::lab::xen::RealXen;
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Boots the kernel on QEMU's devices of Xen, on KVM, and checks its output.
pub(super) fn on_kvm(options: &Options, elf: &Path, tree: &Path, disks: [&PathBuf; 2]) -> Result<Transcript> {
    let [disk0, disk1] = disks;
    let folder = disk0.parent().context("the disk image has no folder")?;
    if let Some(disk) = &options.disk {
        // The outer machine, if there is one, has only this folder.
        std::fs::copy(disk, disk0).with_context(|| format!("cannot copy {}", disk.display()))?;
    }
    let memory = format!("{}M", options.memory);
    let kind = options.machine.as_deref().unwrap_or("q35");
    let mut machine = Lab::open()?.xen(elf, kind, "", options.cpus, &memory, folder)?;
    let server = match &machine.nest {
        Some(_) => None,
        None => Some(crate::serve::start(tree)?),
    };
    let port = server.as_ref().map_or(NESTED_PORT, |server| server.port);
    if server.is_none() {
        machine.prepare = format!("httpd -p 127.0.0.1:{port} -h '{}'", tree.display());
    }
    machine.drive("d0", disk0, ",readonly=on").drive("d1", disk1, ",discard=unmap");
    machine.add("-device xen-disk,drive=d0,vdev=xvda -device xen-disk,drive=d1,vdev=xvdb");
    if !options.no_nic {
        machine.add("-netdev user,id=n0 -device xen-net-device,netdev=n0,mac=52:54:00:12:34:56");
    }
    options.qemu.iter().for_each(|words| {
        machine.add(words);
    });
    let network = if options.no_nic {
        String::new()
    } else {
        format!(" dhcp ping http=http://10.0.2.2:{port}/large.bin")
    };
    let usual = format!("list mount=disk0 test=disk1{network} clock");
    machine.command_line = options.args.clone().unwrap_or(usual);
    machine.timeout = Duration::from_secs(options.timeout);
    println!("booting: {}", machine.command_line);
    let transcript = machine.run(|line| println!("  {line}"))?;
    verify(options, Host::Xen, &transcript, tree, disk1)?;
    Ok(transcript)
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
    verify_lines(options, Host::XenReal, &transcript, tree)?;
    if options.args.is_none() {
        let wanted = format!("disk1: {}", image::pattern_sum(DISK1));
        ensure!(all.lines.iter().any(|line| line.starts_with(&wanted)), "disk1 has not the test's pattern");
        println!("verdict: the lines are as expected, and disk1 has the test's pattern");
    } else {
        println!("verdict: the kernel's exit code is 0");
    }
    Ok(transcript)
}
