//! A virtio balloon: the host takes pages from the guest, and returns some of them.
//!
//! Runs in process, against a model of the device: `cargo run -p paravirt-virtio --example virtio-balloon`
#![forbid(unsafe_code)]

use paravirt_device::{Arm, Balloon, BalloonMemory, Fault, MemoryStatistics, Notify, PageRange};
use paravirt_testhost::{Guest, Ring, VirtioBalloonHost};
use paravirt_virtio::OpenOptions;
use paravirt_virtio::balloon::VirtioBalloon;
use std::error::Error;

/// The kernel's page allocator, as the driver sees it: here a list of free page frames.
struct Frames(Vec<u64>);

impl BalloonMemory for Frames {
    fn take(&mut self, _most: u64) -> Option<PageRange> {
        self.0.pop().map(|first| PageRange { first, count: 1 })
    }
    fn release(&mut self, range: PageRange) {
        self.0.extend(range.first..range.end());
    }
    fn statistics(&mut self) -> MemoryStatistics {
        let mut statistics = MemoryStatistics::default();
        statistics.free = self.0.len() as u64;
        statistics
    }
}

/// Serves the balloon until there is nothing more to do. A kernel does this in a task that the device's interrupt wakes.
fn serve(
    host: &VirtioBalloonHost,
    balloon: &mut VirtioBalloon<Guest>,
    frames: &mut Frames,
) -> Result<(), Fault> {
    loop {
        balloon.poll(frames)?;
        host.work();
        if balloon.arm() != Arm::Pending {
            return Ok(());
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let guest = Guest::new();
    let host = VirtioBalloonHost::new(&guest, Ring::Split);
    let mut balloon = VirtioBalloon::open(&guest, host.transport(), &OpenOptions::new())?;
    let mut frames = Frames((1000..2000).collect());

    for target in [300, 120] {
        host.set_target(target);
        serve(&host, &mut balloon, &mut frames)?;
        println!(
            "the host asks for {target} pages: {} in the balloon, {} free",
            host.actual(),
            frames.0.len()
        );
        assert_eq!((host.actual(), balloon.info().held), (target, u64::from(target)));
        assert_eq!(frames.0.len() as u32, 1000 - target);
        assert_eq!(host.taken().len() as u32, target);
    }
    Ok(())
}
