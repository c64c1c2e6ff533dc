//! Hyper-V's shutdown service: the host asks the guest to power off; the kernel agrees, and the host has the answer before it does.
//!
//! Runs in process, against a model of the host: `cargo run -p paravirt-hv-ic --example hv-shutdown`
#![forbid(unsafe_code)]

use hyperv_bindings::ic::{IcMessageType, IcShutdown, IcShutdownFlags, IcStatus, IcVersion};
use hyperv_bindings::vmbus::SHUTDOWN;
use paravirt_device::{Agent, PowerRequest};
use paravirt_hv_ic::{Connection, service};
use paravirt_hyperv::Hypervisor;
use paravirt_testhost::{Guest, HvHost, IcHost};
use paravirt_vmbus::{Version, Vmbus};
use std::error::Error;
use zerocopy::IntoBytes;

/// What the kernel is to do once the answer was sent.
#[derive(Default)]
struct Kernel {
    pending: Option<PowerRequest>,
}

impl Agent for Kernel {
    /// Returns whether the kernel follows the request. It only takes note: the driver sends the answer first.
    fn power(&mut self, request: PowerRequest, is_forced: bool) -> bool {
        println!("the host asks for {request:?}{}", if is_forced { ", by force" } else { "" });
        self.pending = Some(request);
        true
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let requests = IcHost::default();
    let guest = Guest::with(1, true);
    let (host, channel) = HvHost::with_device(&guest, SHUTDOWN, requests.clone());

    let hypervisor = Hypervisor::open(&guest)?;
    let vmbus = Vmbus::connect(&hypervisor, Version::NEWEST)?;
    let mut offer = None;
    vmbus.offers(&mut |found| {
        if found.interface == SHUTDOWN {
            offer = Some(*found);
        }
    });
    let offer = offer.ok_or("the host offers no shutdown service")?;
    let service = service(&offer.interface).ok_or("not an integration service")?;
    let mut connection = Connection::open(&guest, &vmbus, &offer, service)?;
    let mut kernel = Kernel::default();

    // The host: power off, within 30 seconds, by force.
    let version = IcVersion { major: 3, minor: 0 };
    let shutdown = IcShutdown { reason: 0, timeout: 30, flags: IcShutdownFlags::FORCE.bits() };
    requests.ask(IcMessageType::SHUTDOWN, version, shutdown.as_bytes());
    host.work(&guest, channel);

    // The guest, in a task that the channel's interrupt wakes.
    connection.serve(hypervisor.reference_count(), &mut kernel)?;
    assert_eq!(kernel.pending, Some(PowerRequest::PowerOff));
    assert!(connection.is_flushed(), "the host has read the answer");
    let answers = requests.take_answers();
    assert_eq!((answers.len(), answers[0].status), (1, IcStatus::SUCCESS.0));
    println!("the host has the answer: powering off now");
    Ok(())
}
