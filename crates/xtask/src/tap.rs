//! The kernel on a tap back end, with checksum and segmentation offload, in a network namespace of the test's own.

use crate::guest::Machine;
use crate::{image, tools};
use anyhow::{Context, Result, ensure};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

struct Namespace {
    name: String,
    server: Option<Child>,
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
    }
}

/// Why it cannot be done here, if it cannot.
pub fn obstacle() -> Option<String> {
    let is_root = Command::new("id").arg("-u").output().is_ok_and(|o| o.stdout.starts_with(b"0"));
    if !is_root {
        return Some("network namespaces need root: run the command with sudo".into());
    }
    if let Err(error) = tools::need("ip", "iproute2") {
        return Some(format!("{error:#}"));
    }
    let probe = format!("paravirt-probe-{}", std::process::id());
    let made = Command::new("ip").args(["netns", "add", &probe]).stderr(Stdio::null()).status();
    let _ = Command::new("ip").args(["netns", "delete", &probe]).stderr(Stdio::null()).status();
    if !made.is_ok_and(|status| status.success()) {
        return Some("`ip netns add` is not allowed here: run where it is".into());
    }
    (!Path::new("/dev/net/tun").exists()).then(|| "there is no /dev/net/tun: load the module tun".into())
}

pub fn run(kernel: &Path, tree: &Path) -> Result<()> {
    let mut space = Namespace { name: format!("paravirt-{}", std::process::id()), server: None };
    let ip = |words: &str| tools::run(Command::new("ip").args(words.split_whitespace()));
    let name = space.name.clone();
    ip(&format!("netns add {name}"))?;
    let inside = |words: &str| ip(&format!("-n {name} {words}"));
    inside("link set lo up")?;
    inside("tuntap add tap0 mode tap vnet_hdr multi_queue")?;
    inside("addr add 10.0.2.2/24 dev tap0")?;
    inside("link set tap0 up")?;
    // By process and not by path: a build during the tests may have replaced the file.
    let own = format!("/proc/{}/exe", std::process::id());
    let mut serve = Command::new("ip")
        .args(["netns", "exec", &name])
        .arg(own)
        .args(["serve", "--bind", "10.0.2.2:8000", "--folder"])
        .arg(tree)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let out = serve.stdout.take().context("no output")?;
    space.server = Some(serve);
    let mut word = String::new();
    BufReader::new(out).read_line(&mut word)?;
    ensure!(word.trim() == "listening", "the HTTP server did not start");
    let mut machine = Machine::new(kernel, "q35", 2, "512M");
    machine.prefix = ["ip", "netns", "exec", &name].map(String::from).to_vec();
    machine.add("-netdev tap,id=n0,ifname=tap0,queues=2,script=no,downscript=no -device virtio-net-pci,netdev=n0,mq=on,vectors=6");
    machine.command_line = "list ip=10.0.2.15/24 gw=10.0.2.2 ping http=http://10.0.2.2:8000/large.bin".into();
    let transcript = machine.run(|_| ())?;
    let said = transcript.text();
    ensure!(transcript.exit == Some(0), "the kernel ended with {:?}:\n{said}", transcript.exit);
    let list = transcript.lines.iter().find(|line| line.starts_with("device=net0")).context("no card")?;
    for offload in ["TX_CHECKSUM", "TX_TCP4", "RX_CHECKSUM", "RX_TCP4"] {
        ensure!(list.contains(offload), "the tap back end does not offer {offload}: {list}");
    }
    ensure!(list.contains(" queues=2 "), "the card has not two pairs of queues: {list}");
    let body = std::fs::read(tree.join("large.bin"))?;
    let line = format!("same http=/large.bin status=200 size={} sha256={}", body.len(), image::sha256(&body));
    ensure!(transcript.lines.contains(&line), "the kernel did not say: {line}\n{said}");
    Ok(())
}
