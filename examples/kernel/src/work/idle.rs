//! `idle=SECONDS`: waits, answers the host's integration services, and prints events and how often something other than the timer
//! woke the processor. Ends early if the host requests a shutdown or reset.

use super::agent::Kernel;
use super::devices::Devices;
use super::mount::{blocking, hex};
use crate::arch::time;
use crate::interrupts;
use crate::{platform, println};
use alloc::string::{String, ToString};
use alloc::vec;
use core::time::Duration;
use paravirt_device::{BlockDevice, BlockEvent, Link, NetDevice, NetEvent};

/// Waits for `seconds` seconds.
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
    println!("idle=begin seconds={seconds}");
    let end = time::now().saturating_add(Duration::from_secs(seconds));
    let mut sleeps = 0u64;
    while time::now() < end && kernel.end.is_none() {
        let until = end.min(devices.services.next_deadline());
        platform::sleep(until, || devices.services.arm());
        sleeps += 1;
        report(devices);
        devices.services.serve(&mut kernel);
    }
    // A timer that is slightly fast ends more than one sleep: wake-ups by its interrupts are not counted.
    let woken = sleeps.saturating_sub(interrupts::timer_interrupts() - timer_before);
    println!("idle=end woken={woken} device_interrupts={}", interrupts::device_interrupts() - before);
}

/// Prints the first bytes of the disks from `first` on, which were added.
fn read_added(devices: &mut Devices, first: usize) {
    for index in first..devices.disks.len() {
        if let Err(error) = read_first(devices, index) {
            println!("event=read device=disk{index} error=\"{error}\"");
        }
    }
}

fn read_first(devices: &mut Devices, index: usize) -> Result<(), String> {
    let info = devices.disk(index)?.info();
    let mut queues = devices.disk_queues(index)?;
    let mut bytes = vec![0; info.block_size as usize];
    let mut disk = blocking(queues.remove(0), &info, bytes.len())?;
    let read = disk.read(0, &mut bytes).map_err(|error| error.to_string());
    queues.insert(0, disk.into_queue());
    devices.return_queues(index, queues);
    read?;
    println!("event=read device=disk{index} first={}", hex(&bytes[..4]));
    Ok(())
}

/// Prints events of the devices.
fn report(devices: &mut Devices) {
    let before = devices.disks.len();
    devices.poll();
    read_added(devices, before);
    for (i, disk) in devices.disks.iter_mut().enumerate() {
        while let Some(event) = disk.device.poll_event() {
            match event {
                BlockEvent::Capacity(blocks) => println!("event=capacity device=disk{i} blocks={blocks}"),
                other => println!("event=\"{other:?}\" device=disk{i}"),
            }
        }
    }
    for (i, card) in devices.cards.iter_mut().enumerate() {
        while let Some(event) = card.device.poll_event() {
            match event {
                NetEvent::Link(Link::Up) => println!("event=link device=net{i} link=up"),
                NetEvent::Link(Link::Down) => println!("event=link device=net{i} link=down"),
                other => println!("event=\"{other:?}\" device=net{i}"),
            }
        }
    }
}
