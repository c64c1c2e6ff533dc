//! `idle=SECONDS`: waits, answers the host, and prints what happened and how often something other than the timer woke it. Ends
//! early where the host asks the machine to end.

use super::agent::Kernel;
use super::devices::Devices;
use crate::arch::{interrupts, time};
use crate::{platform, say};
use core::time::Duration;
use paravirt_device::{Arm, BlockDevice, BlockEvent, Link, NetDevice, NetEvent};

pub fn idle(devices: &mut Devices, seconds: u64) {
    let waker = platform::waker();
    devices.disks.iter_mut().for_each(|disk| disk.device.register(&waker));
    devices.cards.iter_mut().for_each(|card| card.device.register(&waker));
    let mut kernel = Kernel::default();
    devices.services.serve(&mut kernel);
    devices.services.register(&waker);
    report(devices);
    let before = interrupts::device_interrupts();
    let timer_before = interrupts::timer_interrupts();
    say!("idle=begin seconds={seconds}");
    let end = time::now().saturating_add(Duration::from_secs(seconds));
    let mut sleeps = 0u64;
    while time::now() < end && kernel.end.is_none() {
        platform::sleep(end, || devices.services.arm() == Arm::Pending);
        sleeps += 1;
        report(devices);
        devices.services.serve(&mut kernel);
    }
    // A timer that is a little fast ends more than one sleep: its interrupts are not counted.
    let woken = sleeps.saturating_sub(interrupts::timer_interrupts() - timer_before);
    say!("idle=end woken={woken} device_interrupts={}", interrupts::device_interrupts() - before);
}

fn report(devices: &mut Devices) {
    devices.poll();
    for (i, disk) in devices.disks.iter_mut().enumerate() {
        while let Some(event) = disk.device.poll_event() {
            match event {
                BlockEvent::Capacity(blocks) => say!("event=capacity device=disk{i} blocks={blocks}"),
                other => say!("event=\"{other:?}\" device=disk{i}"),
            }
        }
    }
    for (i, card) in devices.cards.iter_mut().enumerate() {
        while let Some(event) = card.device.poll_event() {
            match event {
                NetEvent::Link(Link::Up) => say!("event=link device=net{i} link=up"),
                NetEvent::Link(Link::Down) => say!("event=link device=net{i} link=down"),
                other => say!("event=\"{other:?}\" device=net{i}"),
            }
        }
    }
}
