//! Sockets to the host: virtio's socket device, served by the vhost of a Linux host, with socat as the peer.

use super::hyperv::with_lab;
use super::{Bench, Outcome, must_contain, must_end};
use crate::{image, tools};
use anyhow::{Context, Result, ensure};
use std::fs;

pub const CASES: &[(&str, super::Special)] = &[("virtio sockets: to the host and from it", usual)];

/// The host's port of an echo server.
const ECHO: u32 = 9000;
/// A port of the host without a listener.
const CLOSED: u32 = 9001;
/// The guest's port.
const GUEST: u32 = 7;
const LEN: usize = 1_000_003;

fn usual(bench: &Bench) -> Result<Outcome> {
    tools::need("socat", "socat")?;
    with_lab(bench, |lab, folder, bench| {
        let lab = lab.nested()?;
        let socat = tools::path("socat").context("socat is not in the path")?;
        tools::copy_program(&socat, folder)?;
        let sent = image::bytes(5, LEN);
        fs::write(folder.join("sent"), &sent)?;
        for (name, props) in [("split", ""), ("packed", ",packed=on")] {
            let run = format!("LD_LIBRARY_PATH='{0}/lib' '{0}/socat'", folder.display());
            let mut machine = lab.bare(&bench.kernel, "q35", "host", folder)?;
            machine.add(&format!("-device vhost-vsock-pci,guest-cid=3{props}"));
            // The host's client retries until the guest listens, sends the file, and reads until the guest closes the connection.
            machine.prepare = format!(
                "{run} VSOCK-LISTEN:{ECHO},fork EXEC:cat &\n\
                 {{ until {run} -t 20 VSOCK-CONNECT:3:{GUEST} - < '{0}/sent' > '{0}/got-{name}' 2> /dev/null; do sleep 0.2; done; }} &",
                folder.display()
            );
            machine.command_line = format!("list socket={ECHO} socket-echo={GUEST} reconnect=3");
            let transcript = machine.run(|_| ())?;
            must_end(&transcript, 0)?;
            for text in ["device=sockets0 at=pci:", "received=1048576 same=true", "different=0 lost_pages=0"]
            {
                must_contain(&transcript, text)?;
            }
            must_contain(&transcript, &format!("bytes={LEN} sha256={}", image::sha256(&sent)))?;
            let got = fs::read(folder.join(format!("got-{name}")))?;
            ensure!(
                got == sent,
                "the host received {} of {} bytes, or different ones",
                got.len(),
                sent.len()
            );
        }
        let mut machine = lab.bare(&bench.kernel, "q35", "host", folder)?;
        machine.add("-device vhost-vsock-pci,guest-cid=3");
        machine.command_line = format!("socket={CLOSED}");
        let transcript = machine.run(|_| ())?;
        must_end(&transcript, 1)?;
        must_contain(&transcript, "connection refused")
    })
}
