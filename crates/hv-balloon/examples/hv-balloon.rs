//! Hyper-V's dynamic memory: the host takes pages by the balloon, and returns some of them.
//!
//! Runs in process, against a model of the host: `cargo run -p paravirt-hv-balloon --example hv-balloon`
#![forbid(unsafe_code)]

use hyperv_bindings::dynmem::DmVersion;
use paravirt_device::{Arm, Balloon, BalloonMemory, MemoryStatistics, Notify, PageRange};
use paravirt_hv_balloon::{HvBalloon, INTERFACE};
use paravirt_hyperv::Hypervisor;
use paravirt_testhost::{BalloonHost, Guest, HvHost};
use paravirt_vmbus::{ChannelOptions, Version, Vmbus};
use std::error::Error;

/// The kernel's page allocator, as the driver sees it: here one free range, which is given up from its start.
struct Frames {
    free: PageRange,
    returned: u64,
}

impl BalloonMemory for Frames {
    fn take(&mut self, most: u64) -> Option<PageRange> {
        let taken = PageRange { first: self.free.first, count: most.min(self.free.count) };
        self.free = PageRange { first: taken.end(), count: self.free.count - taken.count };
        (taken.count > 0).then_some(taken)
    }
    fn release(&mut self, range: PageRange) {
        self.returned += range.count;
    }
    fn statistics(&mut self) -> MemoryStatistics {
        let mut statistics = MemoryStatistics::default();
        statistics.free = self.free.count;
        statistics
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let device = BalloonHost::new(DmVersion::WIN10);
    let guest = Guest::with(1, true);
    let (host, channel) = HvHost::with_device(&guest, INTERFACE, device.clone());

    let hypervisor = Hypervisor::open(&guest)?;
    let vmbus = Vmbus::connect(&hypervisor, Version::NEWEST)?;
    let mut offer = None;
    vmbus.offers(&mut |found| {
        if found.interface == INTERFACE {
            offer = Some(*found);
        }
    });
    let offer = offer.ok_or("the host offers no dynamic memory")?;
    let mut balloon = HvBalloon::open(&guest, &vmbus, &offer, &ChannelOptions::default())?;
    let mut frames = Frames { free: PageRange { first: 1000, count: 500 }, returned: 0 };
    // Serves the host's requests until there is nothing more to do. A kernel does this in a task that the channel's interrupt wakes.
    let mut serve = |balloon: &mut HvBalloon<Guest>| loop {
        host.work(&guest, channel);
        balloon.poll(&mut frames)?;
        if balloon.arm() != Arm::Pending {
            return Ok::<u64, Box<dyn Error>>(frames.returned);
        }
    };

    device.inflate(1, 200);
    serve(&mut balloon)?;
    assert_eq!((balloon.info().held, device.held()), (200, vec![(1000, 200)]));
    println!("the host took 200 pages, from page 1000 on");

    device.deflate(2, &[(1000, 50)], false);
    let returned = serve(&mut balloon)?;
    assert_eq!((balloon.info().held, returned), (150, 50));
    println!("the host returned {returned} pages, {} are in the balloon", balloon.info().held);
    Ok(())
}
