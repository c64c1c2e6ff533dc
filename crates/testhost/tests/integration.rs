//! The integration services against our model.

use hyperv_bindings::ic::{IcHeartbeat, IcHeartbeatState, IcMessageType, IcShutdown, IcStatus, IcVersion};
use hyperv_bindings::vmbus;
use paravirt_device::{Agent, Arm, Fault, PowerRequest};
use paravirt_hv_ic::{Connection, Nobody, service};
use paravirt_hyperv::Hypervisor;
use paravirt_testhost::{Guest, HvHost, IcHost};
use paravirt_vmbus::{Guid, Version, Vmbus};
use zerocopy::IntoBytes;

const V3: IcVersion = IcVersion { major: 3, minor: 0 };

struct Bench {
    guest: Guest,
    host: HvHost,
    asks: IcHost,
    channel: u32,
    _vmbus: Vmbus<Guest>,
    connection: Connection<Guest>,
}

impl Bench {
    fn new(interface: Guid) -> Self {
        let guest = Guest::with(1, true);
        let asks = IcHost::default();
        let (host, channel) = HvHost::with_device(&guest, interface, asks.clone());
        let hypervisor = Hypervisor::open(&guest).expect("a hypervisor");
        let vmbus = Vmbus::connect(&hypervisor, Version::NEWEST).expect("a connection");
        let offer = vmbus.find(&Guid::default(), 0).expect("an offer");
        let service = service(&interface).expect("a service");
        let connection = Connection::open(&guest, &vmbus, &offer, service).expect("a channel");
        Self { guest, host, asks, channel, _vmbus: vmbus, connection }
    }

    fn work(&self) {
        self.host.work(&self.guest, self.channel);
    }
}

#[derive(Default)]
struct Kernel(Vec<PowerRequest>);

impl Agent for Kernel {
    fn power(&mut self, request: PowerRequest, _is_forced: bool) -> bool {
        self.0.push(request);
        true
    }
}

#[test]
fn a_shutdown_request_is_answered_before_the_shutdown() {
    let mut bench = Bench::new(vmbus::SHUTDOWN);
    let asked = IcShutdown { reason: 0x8000_0000, timeout: 30, flags: 2 };
    bench.asks.ask(IcMessageType::SHUTDOWN, V3, asked.as_bytes());
    bench.work();
    assert_eq!(bench.connection.arm(), Arm::Pending);
    let mut kernel = Kernel::default();
    bench.connection.serve(None, &mut kernel).expect("no fault");
    assert_eq!(kernel.0, [PowerRequest::Restart]);
    let answers = bench.asks.take_answers();
    assert_eq!((answers.len(), answers[0].status, &answers[0].body[..]), (1, 0, asked.as_bytes()));
    // A kernel that refuses.
    bench.asks.ask(IcMessageType::SHUTDOWN, V3, asked.as_bytes());
    bench.work();
    bench.connection.serve(None, &mut Nobody).expect("no fault");
    assert_eq!(bench.asks.take_answers()[0].status, IcStatus::FAILURE.0);
    assert_eq!(bench.asks.violations(), Vec::<String>::new());
}

#[test]
fn many_heartbeats_are_all_answered_though_the_ring_is_small() {
    let mut bench = Bench::new(vmbus::HEARTBEAT);
    for sequence in 0..1000 {
        let beat = IcHeartbeat { sequence, state: IcHeartbeatState::UNKNOWN, reserved: 0 };
        bench.asks.ask(IcMessageType::HEARTBEAT, V3, beat.as_bytes());
    }
    let mut count = 0u64;
    while count < 1000 {
        bench.work();
        bench.connection.serve(None, &mut Nobody).expect("no fault");
        for answer in bench.asks.take_answers() {
            count += 1;
            assert_eq!(answer.body[..8], count.to_le_bytes());
        }
    }
    assert_eq!(bench.asks.violations(), Vec::<String>::new());
}

#[test]
fn backup_and_file_copy_are_declined_and_malformed_messages_ignored() {
    for (interface, kind) in [(vmbus::VSS, IcMessageType::VSS), (vmbus::FILE_COPY, IcMessageType::FILE_COPY)]
    {
        let mut bench = Bench::new(interface);
        bench.asks.send(&[1, 2, 3]);
        bench.asks.send(&[0xff; 40]);
        bench.asks.ask(kind, V3, &[0; 64]);
        bench.work();
        bench.connection.serve(None, &mut Nobody).expect("no fault");
        let answers = bench.asks.take_answers();
        assert_eq!((answers.len(), answers[0].status), (1, IcStatus::NOT_SUPPORTED.0));
        bench.host.rescind(&bench.guest, bench.channel);
        let fault = loop {
            if let Err(fault) = bench.connection.serve(None, &mut Nobody) {
                break fault;
            }
        };
        assert_eq!(fault, Fault::Removed);
        assert_eq!(bench.asks.violations(), Vec::<String>::new());
    }
}
