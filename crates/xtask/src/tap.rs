//! The kernel on a tap back end, with checksum and segmentation offload, in a separate network namespace.

use crate::guest::Machine;
use crate::{image, tools};
use anyhow::{Context, Result, ensure};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// A network namespace with an HTTP server; both are removed when this is dropped.
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

/// Returns why the case cannot run on this machine, if it cannot.
pub fn obstacle() -> Option<String> {
    let is_root = Command::new("id").arg("-u").output().is_ok_and(|o| o.stdout.starts_with(b"0"));
    if !is_root {
        return Some("network namespaces need root: run the command with sudo".into());
    }
    if let Err(error) = tools::need("ip", "iproute2") {
        return Some(format!("{error:#}"));
    }
    // Two cases may look at the same time.
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let probe = format!("paravirt-probe-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let made = Command::new("ip").args(["netns", "add", &probe]).stderr(Stdio::null()).status();
    let _ = Command::new("ip").args(["netns", "delete", &probe]).stderr(Stdio::null()).status();
    if !made.is_ok_and(|status| status.success()) {
        return Some("`ip netns add` is not permitted: run outside of a restricted container".into());
    }
    (!Path::new("/dev/net/tun").exists()).then(|| "/dev/net/tun is missing: load the module tun".into())
}

/// Removes the network namespaces of earlier runs that were killed: those whose process has ended.
fn remove_old() {
    for entry in std::fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process =
            name.strip_prefix("paravirt-").and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if process.is_some_and(|process| !Path::new(&format!("/proc/{process}")).exists()) {
            let _ = tools::run(Command::new("ip").args(["netns", "delete", &name]));
        }
    }
}

/// A card on the tap.
pub struct Card {
    /// QEMU's name of the device.
    pub name: &'static str,
    /// Its properties, and words of the kernel.
    pub properties: &'static str,
    pub kernel: &'static str,
    /// Offloads that it must have.
    pub offloads: &'static [&'static str],
    /// The MTU of the tap.
    pub mtu: u16,
    /// Whether the tap has two queues. The kernel decides which of them a frame comes by.
    pub has_two_queues: bool,
}

/// Runs the case with a card.
pub fn run(kernel: &Path, tree: &Path, card: &Card) -> Result<()> {
    remove_old();
    let name = format!("paravirt-{}-{}", std::process::id(), card.name);
    let mut space = Namespace { name, server: None };
    let ip = |words: &str| tools::run(Command::new("ip").args(words.split_whitespace()));
    let name = space.name.clone();
    ip(&format!("netns add {name}"))?;
    let inside = |words: &str| ip(&format!("-n {name} {words}"));
    inside("link set lo up")?;
    let (kind, queues) = if card.has_two_queues { ("multi_queue", ",queues=2") } else { ("", "") };
    inside(&format!("tuntap add tap0 mode tap vnet_hdr {kind}"))?;
    inside("addr add 10.0.2.2/24 dev tap0")?;
    inside(&format!("link set tap0 mtu {} up", card.mtu))?;
    // By process id instead of path: a build during the tests may have replaced the file.
    let own = format!("/proc/{}/exe", std::process::id());
    let mut serve = Command::new("ip");
    crate::guest::end_with_parent(&mut serve);
    let mut serve = serve
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
    machine.add(&format!(
        "-netdev tap,id=n0,ifname=tap0{queues},script=no,downscript=no -device {},netdev=n0{}",
        card.name, card.properties
    ));
    machine.command_line =
        format!("list {} ip=10.0.2.15/24 gw=10.0.2.2 ping http=http://10.0.2.2:8000/large.bin", card.kernel);
    let transcript = machine.run(|_| ())?;
    let output = transcript.text();
    ensure!(transcript.exit == Some(0), "the kernel's exit code is {:?}:\n{output}", transcript.exit);
    let list = transcript
        .lines
        .iter()
        .find(|line| line.starts_with("device=net0"))
        .context("the kernel found no network card")?;
    for offload in card.offloads {
        ensure!(list.contains(offload), "the tap back end does not offer {offload}: {list}");
    }
    ensure!(list.contains(" queues=2 "), "the network card does not have two queue pairs: {list}");
    let line = image::expected_page(tree)?;
    ensure!(transcript.lines.contains(&line), "missing in the kernel's output: {line}\n{output}");
    Ok(())
}
