//! `balloon=SECONDS`: gives the host the memory that it asks for, and says how much it has; with `beside`, on the second
//! processor while the first does the rest. `report-free=BYTES` tells it of free memory.

use super::devices::At;
use super::options::Options;
use crate::arch::{interrupts, smp, time};
use crate::platform::{self, Machine};
use crate::{memory, say};
use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;
use paravirt::AnyBalloon;
use paravirt_device::{Arm, Balloon, BalloonInfo, BalloonMemory, MemoryStatistics, Notify, PageRange};

/// How long an answer is put off: QEMU up to 10.0 ends with an assertion where one comes before it is done with asking.
const LAG: Duration = Duration::from_millis(50);

/// The kernel's memory, as a balloon sees it.
struct Spare;

impl BalloonMemory for Spare {
    fn take(&mut self, most: u64) -> Option<PageRange> {
        memory::spare(most).map(|(first, count)| PageRange { first, count })
    }

    fn give_back(&mut self, range: PageRange) {
        memory::give_back(range.first, range.count);
    }

    fn add(&mut self, range: PageRange) -> u64 {
        let count = memory::add(range.first, range.count);
        say!("memory=added first={:#x} pages={} used={count}", range.first, range.count);
        count
    }

    fn statistics(&mut self) -> MemoryStatistics {
        let (total, free) = memory::statistics();
        let committed = total.saturating_sub(free).saturating_sub(memory::spared());
        let mut statistics = MemoryStatistics::default();
        statistics.total = total;
        statistics.free = free;
        statistics.available = free;
        statistics.committed = committed;
        statistics
    }
}

/// Serves them for the time that `options` say, on the processor that calls.
pub fn run(balloons: &mut [At<Box<AnyBalloon<Machine>>>], options: &Options) -> Result<(), String> {
    let Some(seconds) = options.balloon else { return Ok(()) };
    if balloons.is_empty() {
        return Err("there is no balloon".into());
    }
    let waker = platform::waker();
    balloons.iter_mut().for_each(|balloon| balloon.device.register(&waker));
    let before: Vec<u64> = (0..smp::count()).map(interrupts::device_interrupts_on).collect();
    let end = time::now().saturating_add(Duration::from_secs(seconds));
    let mut said = Vec::new();
    let allocations = memory::allocations();
    let mut counted = allocations;
    said.resize(balloons.len(), BalloonInfo::default());
    let mut reported = 0;
    say!("balloon=begin seconds={seconds}");
    while time::now() < end {
        let mut until = end;
        for (i, balloon) in balloons.iter_mut().enumerate() {
            let balloon = &mut balloon.device;
            let from = memory::allocations();
            balloon.poll(&mut Spare).map_err(|fault| fault.to_string())?;
            if let Some(most) = options.report_free.filter(|_| reported == 0) {
                reported = balloon.report_free(&mut Spare, most / 4096).map_err(|e| e.to_string())?;
                say!("balloon={i} reported={reported}");
            }
            counted += memory::allocations() - from;
            let info = balloon.info();
            if (info.held, info.added) != (said[i].held, said[i].added) {
                let target = info.target.map_or("none".into(), |target| target.to_string());
                say!("balloon={i} held={} target={target} added={}", info.held, info.added);
            }
            said[i] = info;
            until = until.min(balloon.next_deadline());
        }
        platform::sleep(until, || balloons.iter_mut().any(|balloon| balloon.device.arm() == Arm::Pending));
        let lag = time::now().saturating_add(LAG);
        while time::now() < lag {
            platform::sleep(lag, || false);
        }
    }
    for (i, info) in said.iter().enumerate() {
        let (_, free) = memory::statistics();
        let counted = counted - allocations;
        say!("balloon={i} end held={} reports={} free={free} allocations={counted}", info.held, info.reports);
    }
    for (processor, before) in (0..).zip(before) {
        let count = interrupts::device_interrupts_on(processor) - before;
        say!("interrupts=balloon processor={processor} count={count}");
    }
    Ok(())
}
