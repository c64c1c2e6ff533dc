//! Hyper-V sockets: connects to a service of the host, exchanges bytes with it, and closes.
//!
//! Runs in process, against a model of the host: `cargo run -p paravirt-hv-socket --example hv-socket`
#![forbid(unsafe_code)]

use paravirt_device::{SocketState, Sockets};
use paravirt_hv_socket::HvSockets;
use paravirt_hyperv::Hypervisor;
use paravirt_testhost::{Guest, HvHost, HvOffer, SocketEnd};
use paravirt_vmbus::{Version, Vmbus};
use std::error::Error;

const PORT: u32 = 9000;

fn main() -> Result<(), Box<dyn Error>> {
    // The host: a service on the port that sends back what it receives.
    let guest = Guest::with(1, true);
    let host = HvHost::new(&guest, HvOffer::least());
    let service = SocketEnd::echo();
    host.listen(&guest, PORT, &service);

    let hypervisor = Hypervisor::open(&guest)?;
    let vmbus = Vmbus::connect(&hypervisor, Version::NEWEST)?;
    let mut sockets = HvSockets::new(&guest, &vmbus)?.ok_or("hosts before VMBus 4.0 have no sockets")?;

    // A connection is requested, and established when the host has answered.
    let socket = sockets.connect(PORT)?;
    while sockets.state(socket) == Some(SocketState::Connecting) {
        host.work_on_all(&guest);
        sockets.poll()?;
    }
    assert_eq!(sockets.state(socket), Some(SocketState::Open { is_ended: false }));
    println!("connected to port {PORT}");

    // A send takes as many bytes as there is room for, a receive returns as many as there are.
    let question = b"is anybody there?";
    let (mut sent, mut answer) = (0, vec![]);
    while answer.len() < question.len() {
        sent += sockets.send(socket, &question[sent..])?;
        host.work_on_all(&guest);
        sockets.poll()?;
        let mut bytes = [0; 64];
        let count = sockets.receive(socket, &mut bytes)?;
        answer.extend_from_slice(&bytes[..count]);
    }
    assert_eq!(answer, question);
    println!("sent {sent} bytes, received: {}", answer.escape_ascii());

    sockets.close(socket);
    assert_eq!(service.received(), (question.to_vec(), true));
    println!("closed");
    Ok(())
}
