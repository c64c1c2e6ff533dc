//! Hyper-V sockets against our model.

use paravirt_device::{Arm, CloseReason, Notify, SocketError, SocketId, SocketState, Sockets};
use paravirt_hv_socket::HvSockets;
use paravirt_hyperv::Hypervisor;
use paravirt_platform::{Instant, Platform};
use paravirt_testhost::{Guest, HvHost, HvOffer, SocketEnd};
use paravirt_vmbus::{Version, Vmbus};
use std::time::Duration;

const PORT: u32 = 9000;

struct Bench {
    guest: Guest,
    host: HvHost,
    sockets: HvSockets<Guest>,
    vmbus: Vmbus<Guest>,
}

impl Bench {
    fn new(version: Version) -> Self {
        let guest = Guest::with(1, true);
        let host = HvHost::new(&guest, HvOffer::least());
        let hypervisor = Hypervisor::open(&guest).expect("a hypervisor");
        let vmbus = Vmbus::connect(&hypervisor, version).expect("a connection");
        let sockets = HvSockets::new(&guest, &vmbus).expect("memory").expect("a version with sockets");
        Self { guest, host, sockets, vmbus }
    }

    fn work(&mut self) {
        self.host.work_on_all(&self.guest);
        self.sockets.poll().expect("no fault");
    }

    /// Opens a socket to the host, whose end is `end`.
    fn open(&mut self, end: &SocketEnd) -> SocketId {
        self.host.listen(&self.guest, PORT, end);
        let socket = self.sockets.connect(PORT).expect("a place");
        assert_eq!(self.sockets.state(socket), Some(SocketState::Connecting));
        self.work();
        assert_eq!(self.sockets.state(socket), Some(SocketState::Open { is_ended: false }));
        socket
    }

    fn read(&mut self, socket: SocketId) -> Vec<u8> {
        let mut all = vec![];
        let mut bytes = [0; 1000];
        loop {
            match self.sockets.receive(socket, &mut bytes).expect("a socket") {
                0 => return all,
                count => all.extend_from_slice(&bytes[..count]),
            }
        }
    }

    fn end(self) {
        assert_eq!(self.host.violations(), Vec::<String>::new());
    }
}

#[test]
fn more_data_than_the_ring_holds_is_echoed() {
    for version in [Version::NEWEST, Version::new(4, 0)] {
        let mut bench = Bench::new(version);
        let end = SocketEnd::echo();
        let socket = bench.open(&end);
        let sent: Vec<u8> = (0..200_000).map(|at| (at % 251) as u8).collect();
        let (mut at, mut came) = (0, vec![]);
        while came.len() < sent.len() {
            at += bench.sockets.send(socket, &sent[at..]).expect("open");
            bench.work();
            came.extend(bench.read(socket));
        }
        assert!(came == sent);
        bench.sockets.finish(socket).expect("a socket");
        assert_eq!(bench.sockets.send(socket, &[1]), Err(SocketError::NotOpen));
        bench.work();
        assert_eq!(bench.sockets.state(socket), Some(SocketState::Open { is_ended: true }));
        bench.sockets.close(socket);
        assert_eq!((bench.sockets.state(socket), bench.sockets.is_flushed()), (None, Ok(true)));
        assert_eq!(end.received(), (sent, true));
        assert_eq!(bench.host.gpadls(), (0, 0));
        assert_eq!(end.violations(), Vec::<String>::new());
        bench.end();
    }
}

#[test]
fn data_sent_before_close_is_delivered() {
    let mut bench = Bench::new(Version::NEWEST);
    let end = SocketEnd::default();
    let socket = bench.open(&end);
    assert_eq!(bench.sockets.send(socket, b"farewell"), Ok(8));
    bench.sockets.close(socket);
    assert_eq!(bench.sockets.receive(socket, &mut [0]), Err(SocketError::Unknown));
    bench.work();
    assert_eq!(end.received(), (b"farewell".to_vec(), true));
    // The host has not shut down: the channel stays until it does, or until a timeout.
    assert_eq!(bench.host.gpadls().0, 1);
    bench.guest.turn(Duration::from_secs(11));
    bench.work();
    assert_eq!(bench.host.gpadls().0, 0);
    bench.end();
}

#[test]
fn a_call_closes_one_socket_as_each_waits_for_the_host() {
    let mut bench = Bench::new(Version::NEWEST);
    let ends = [(); 3].map(|()| SocketEnd::default());
    let sockets = ends.each_ref().map(|end| bench.open(end));
    sockets.iter().for_each(|socket| bench.sockets.close(*socket));
    bench.guest.turn(Duration::from_secs(11));
    for left in [2, 1, 0] {
        assert!(bench.sockets.next_deadline() <= bench.guest.now().saturating_add(Duration::from_millis(10)));
        bench.work();
        assert_eq!(bench.host.gpadls().0, left);
    }
    assert_eq!(bench.sockets.next_deadline(), Instant::NEVER);
    bench.end();
}

/// A host of VMBus 4.0 does not respond to a connection that nobody listens for.
#[test]
fn a_socket_that_is_closed_while_it_connects_gives_its_place_up_at_once() {
    let mut bench = Bench::new(Version::new(4, 0));
    let sockets = [(); 3].map(|()| bench.sockets.connect(1).expect("a place"));
    bench.work();
    sockets.iter().for_each(|socket| bench.sockets.close(*socket));
    assert!(bench.sockets.next_deadline() <= bench.guest.now());
    bench.work();
    assert_eq!(bench.sockets.next_deadline(), Instant::NEVER);
    bench.end();
}

#[test]
fn refused_and_unanswered_connections_are_errors() {
    let mut bench = Bench::new(Version::NEWEST);
    let socket = bench.sockets.connect(1).expect("a place");
    bench.work();
    let refused = SocketState::Closed(CloseReason::Refused);
    assert_eq!(bench.sockets.state(socket), Some(refused));
    assert_eq!(bench.sockets.send(socket, &[1]), Err(SocketError::NotOpen));
    bench.end();
    // A host of VMBus 4.0 does not respond.
    let mut bench = Bench::new(Version::new(4, 0));
    let socket = bench.sockets.connect(1).expect("a place");
    bench.work();
    assert_eq!(bench.sockets.state(socket), Some(SocketState::Connecting));
    let deadline = bench.sockets.next_deadline();
    bench.guest.turn(Duration::from_secs(11));
    bench.sockets.expire(deadline).expect("no fault");
    assert_eq!(bench.sockets.state(socket), Some(SocketState::Closed(CloseReason::TimedOut)));
    bench.end();
}

#[test]
fn versions_before_4_0_have_no_sockets() {
    let guest = Guest::with(1, true);
    let _host = HvHost::new(&guest, HvOffer::least());
    let hypervisor = Hypervisor::open(&guest).expect("a hypervisor");
    let vmbus = Vmbus::connect(&hypervisor, Version::new(3, 0)).expect("a connection");
    assert!(HvSockets::new(&guest, &vmbus).expect("memory").is_none());
}

#[test]
fn the_host_connects_to_a_listening_port() {
    let mut bench = Bench::new(Version::NEWEST);
    let (early, end) = (SocketEnd::default(), SocketEnd::default());
    // There is no listener yet.
    bench.host.connect(&bench.guest, PORT, &early);
    bench.work();
    bench.sockets.listen(PORT).expect("a place");
    assert_eq!(bench.sockets.listen(PORT), Err(SocketError::InUse));
    assert_eq!(bench.sockets.accept(PORT), None);
    let channel = bench.host.connect(&bench.guest, PORT, &end);
    assert_eq!(bench.sockets.arm(), Arm::Pending);
    bench.work();
    let socket = bench.sockets.accept(PORT).expect("a socket");
    assert_eq!(bench.sockets.accept(PORT), None);
    end.send(b"are you there?");
    bench.work();
    assert_eq!(bench.read(socket), b"are you there?");
    // Data before the end can be read after the end.
    end.send(b"goodbye");
    bench.host.work(&bench.guest, channel);
    bench.host.rescind(&bench.guest, channel);
    assert_eq!(bench.read(socket), b"goodbye");
    assert_eq!(bench.sockets.state(socket), Some(SocketState::Closed(CloseReason::Reset)));
    bench.sockets.close(socket);
    bench.work();
    assert!(!bench.host.has(channel));
    bench.end();
}

#[test]
fn a_malformed_packet_closes_only_its_socket() {
    let mut bench = Bench::new(Version::NEWEST);
    let (bad, good) = (SocketEnd::default(), SocketEnd::echo());
    let (first, second) = (bench.open(&bad), bench.open(&good));
    bad.send(b"fine");
    bad.send_packet(&[9, 0, 0, 0, 4, 0, 0, 0, 1, 2, 3, 4]);
    bench.work();
    assert_eq!(bench.read(first), b"fine");
    assert_eq!(bench.sockets.state(first), Some(SocketState::Closed(CloseReason::Reset)));
    assert_eq!(bench.sockets.send(second, b"still here"), Ok(10));
    bench.work();
    assert_eq!(bench.read(second), b"still here");
    bench.end();
}

#[test]
fn sockets_are_not_reported_as_devices_and_are_limited_by_the_table() {
    let mut bench = Bench::new(Version::NEWEST);
    let ends: Vec<SocketEnd> = (0..bench.sockets.capacity()).map(|_| SocketEnd::default()).collect();
    let all: Vec<SocketId> = ends.iter().map(|end| bench.open(end)).collect();
    assert_eq!(bench.sockets.connect(PORT), Err(SocketError::Full));
    assert_eq!(bench.vmbus.poll(), None);
    let mut count = 0;
    bench.vmbus.offers(&mut |_| count += 1);
    assert_eq!((count, bench.vmbus.arm()), (0, Arm::Armed));
    // A free slot is reused for another socket.
    ends[3].finish();
    bench.sockets.close(all[3]);
    bench.work();
    bench.work();
    let end = SocketEnd::default();
    let again = bench.open(&end);
    assert_eq!(again.place(), all[3].place());
    assert!(again != all[3] && bench.sockets.state(all[3]).is_none());
    bench.end();
}

#[test]
fn refusals_reach_their_socket_and_are_not_stored() {
    let mut bench = Bench::new(Version::NEWEST);
    // More refusals than can be stored, of sockets that were closed.
    for _ in 0..50 {
        let socket = bench.sockets.connect(1).expect("a place");
        bench.sockets.close(socket);
        let _ = bench.vmbus.arm();
        assert_eq!(bench.sockets.arm(), Arm::Pending);
        bench.sockets.poll().expect("no fault");
        assert_eq!(bench.sockets.arm(), Arm::Armed);
    }
    let socket = bench.sockets.connect(1).expect("a place");
    let _ = bench.vmbus.arm();
    assert_eq!(bench.sockets.arm(), Arm::Pending);
    bench.sockets.poll().expect("no fault");
    assert_eq!(bench.sockets.state(socket), Some(SocketState::Closed(CloseReason::Refused)));
    bench.end();
}
