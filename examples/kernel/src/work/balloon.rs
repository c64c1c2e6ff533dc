//! `balloon=SECONDS`: serves the balloons for that long and prints what they hold; with `parallel`, on the second processor while
//! the first one runs the other parts. `report-free=BYTES` also reports free memory to the host.

use super::devices::At;
use super::options::Options;
use crate::arch::time;
use crate::platform::{self, Machine};
use crate::{interrupts, smp};
use crate::{memory, println};
use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;
use paravirt::AnyBalloon;
use paravirt_device::{Arm, Balloon, BalloonInfo, BalloonMemory, MemoryStatistics, Notify, PageRange};

/// Delay between wake-up and answer: QEMU up to 10.0 fails an assertion if the answer arrives while it still sends the request.
const ANSWER_DELAY: Duration = Duration::from_millis(50);

/// The kernel's memory, for balloons.
struct KernelMemory;

impl BalloonMemory for KernelMemory {
    fn take(&mut self, max: u64) -> Option<PageRange> {
        memory::take_for_balloon(max).map(|(first, count)| PageRange { first, count })
    }

    fn release(&mut self, range: PageRange) {
        memory::return_from_balloon(range.first, range.count);
    }

    fn add(&mut self, range: PageRange) -> u64 {
        let count = memory::add(range.first, range.count);
        println!("memory=added first={:#x} pages={} used={count}", range.first, range.count);
        count
    }

    fn statistics(&mut self) -> MemoryStatistics {
        let (total, free) = memory::statistics();
        let committed = total.saturating_sub(free).saturating_sub(memory::ballooned());
        let mut statistics = MemoryStatistics::default();
        statistics.total = total;
        statistics.free = free;
        statistics.available = free;
        statistics.committed = committed;
        statistics
    }
}

/// Serves the balloons on the current processor for as long as `options` say.
pub fn run(balloons: &mut [At<Box<AnyBalloon<Machine>>>], options: &Options) -> Result<(), String> {
    let Some(seconds) = options.balloon else { return Ok(()) };
    if balloons.is_empty() {
        return Err("balloon: there is no balloon device".into());
    }
    let waker = platform::waker();
    balloons.iter_mut().for_each(|balloon| balloon.device.register(&waker));
    let before: Vec<u64> = (0..smp::count()).map(interrupts::device_interrupts_on).collect();
    let end = time::now().saturating_add(Duration::from_secs(seconds));
    let mut printed = Vec::new();
    let allocations = memory::allocations();
    let mut counted = allocations;
    printed.resize(balloons.len(), BalloonInfo::default());
    let mut reported = 0;
    println!("balloon=begin seconds={seconds}");
    while time::now() < end {
        let mut until = end;
        for (i, balloon) in balloons.iter_mut().enumerate() {
            let balloon = &mut balloon.device;
            let from = memory::allocations();
            balloon.poll(&mut KernelMemory).map_err(|fault| fault.to_string())?;
            if let Some(bytes) = options.report_free.filter(|_| reported == 0) {
                reported = balloon.report_free(&mut KernelMemory, bytes / 4096).map_err(|e| e.to_string())?;
                println!("balloon={i} reported={reported}");
            }
            counted += memory::allocations() - from;
            let info = balloon.info();
            if (info.held, info.added) != (printed[i].held, printed[i].added) {
                let target = info.target.map_or("none".into(), |target| target.to_string());
                println!("balloon={i} held={} target={target} added={}", info.held, info.added);
            }
            printed[i] = info;
            until = until.min(balloon.next_deadline());
        }
        platform::sleep(until, || {
            balloons.iter_mut().fold(Arm::Armed, |all, balloon| all.and(balloon.device.arm()))
        });
        let answer_at = time::now().saturating_add(ANSWER_DELAY);
        while time::now() < answer_at {
            platform::sleep(answer_at, || Arm::Armed);
        }
    }
    for (i, info) in printed.iter().enumerate() {
        let (_, free) = memory::statistics();
        let counted = counted - allocations;
        println!(
            "balloon={i} end held={} reports={} free={free} allocations={counted}",
            info.held, info.reports
        );
    }
    for (processor, before) in (0..).zip(before) {
        let count = interrupts::device_interrupts_on(processor) - before;
        println!("interrupts=balloon processor={processor} count={count}");
    }
    Ok(())
}
