//! The virtio balloon driver against a model of the device.

use core::time::Duration;
use paravirt_device::{Arm, Balloon, Fault, Notify};
use paravirt_testhost::{Guest, Pages, Ring, VirtioBalloonHost};
use paravirt_virtio::OpenOptions;
use paravirt_virtio::balloon::VirtioBalloon;
use paravirt_virtio::transport::DeviceStatus;
use std::collections::BTreeSet;

type Driver = VirtioBalloon<Guest>;

fn open(ring: Ring) -> (Guest, VirtioBalloonHost, Driver) {
    let guest = Guest::new();
    let clock = guest.downgrade();
    guest.attach(move || clock.turn(Duration::from_millis(100)));
    let host = VirtioBalloonHost::new(&guest, ring);
    let driver = VirtioBalloon::open(&guest, host.transport(), &OpenOptions::default()).unwrap();
    (guest, host, driver)
}

/// Runs both sides until they are idle.
fn settle(host: &VirtioBalloonHost, driver: &mut Driver, pages: &mut Pages) -> Result<(), Fault> {
    for _ in 0..100 {
        host.work();
        driver.poll(pages)?;
        host.work();
        if driver.arm() == Arm::Armed {
            break;
        }
    }
    Ok(())
}

#[test]
fn exactly_the_requested_pages_are_ballooned_and_returned() {
    for ring in [Ring::Split, Ring::Packed] {
        let (_guest, host, mut driver) = open(ring);
        let mut pages = Pages::new(2000, 3);
        for target in [5u32, 700, 1999, 1998, 40, 41, 0, 300, 0] {
            host.set_target(target);
            settle(&host, &mut driver, &mut pages).unwrap();
            let taken: BTreeSet<u64> = host.taken().into_iter().map(u64::from).collect();
            assert_eq!(
                (taken.len() as u32, host.actual(), &taken),
                (target, target, &pages.taken),
                "{ring:?}"
            );
            assert_eq!(driver.info().held, u64::from(target));
        }
        assert_eq!(host.faults(), [""; 0]);
    }
}

#[test]
fn a_kernel_without_free_pages_is_retried() {
    let (guest, host, mut driver) = open(Ring::Split);
    let mut pages = Pages::new(10, 3);
    host.set_target(50);
    settle(&host, &mut driver, &mut pages).unwrap();
    assert_eq!(driver.info().held, 10);
    let at = driver.next_deadline();
    assert!(at > paravirt_platform::Platform::now(&guest), "no retry is scheduled");
    pages.free.extend(5000..5100);
    settle(&host, &mut driver, &mut pages).unwrap();
    assert_eq!(driver.info().held, 50);
}

#[test]
fn statistics_are_sent_on_request() {
    let (_guest, host, mut driver) = open(Ring::Split);
    let mut pages = Pages::new(7, 3);
    for round in 1..5 {
        settle(&host, &mut driver, &mut pages).unwrap();
        host.request_statistics();
        settle(&host, &mut driver, &mut pages).unwrap();
        assert_eq!(host.statistics(), [(4, 7 * 4096), (5, 5000 * 4096), (6, 12 * 4096), (7, 5 * 4096)]);
        assert_eq!(driver.info().reports, round);
    }
}

#[test]
fn free_pages_are_reported_and_returned() {
    let (_guest, host, mut driver) = open(Ring::Split);
    let mut pages = Pages::new(20, 3);
    host.set_silent(true);
    assert_eq!(driver.report_free(&mut pages, 8), Ok(8));
    settle(&host, &mut driver, &mut pages).unwrap();
    assert_eq!(pages.taken.len(), 8, "the device has the pages until it completes the report");
    host.set_silent(false);
    assert_eq!(driver.report_free(&mut pages, 3), Ok(3));
    settle(&host, &mut driver, &mut pages).unwrap();
    assert_eq!(host.reported().last(), Some(&(1008 * 4096, 3 * 4096)));
}

/// A reset with requests in flight on all queues: no page is lost, none is reclaimed that the device may have, and the driver
/// continues.
#[test]
fn a_reset_with_requests_in_flight_loses_no_page() {
    for ring in [Ring::Split, Ring::Packed] {
        for target in [0u32, 900] {
            let (_guest, host, mut driver) = open(ring);
            let mut pages = Pages::new(2000, 3);
            host.set_target(500);
            settle(&host, &mut driver, &mut pages).unwrap();
            // An inflate or deflate, a free page report and the statistics are in flight.
            host.set_silent(true);
            host.set_target(target);
            driver.poll(&mut pages).unwrap();
            assert_eq!(driver.report_free(&mut pages, 6), Ok(6));
            host.work();
            host.device().registers().status |= DeviceStatus::NEEDS_RESET;
            let before = host.device().registers().resets;
            host.set_silent(false);
            for _ in 0..5 {
                assert_eq!(driver.poll(&mut pages), Ok(()), "the driver continues after a reset");
                if host.device().registers().resets > before {
                    break;
                }
            }
            host.reset_state();
            settle(&host, &mut driver, &mut pages).unwrap();
            assert_eq!(driver.info().held, u64::from(target), "{ring:?}");
            assert_eq!(pages.taken.len() as u32, target, "the reported pages were reclaimed");
            assert_eq!(host.actual(), target);
            host.request_statistics();
            settle(&host, &mut driver, &mut pages).unwrap();
            assert_eq!(host.statistics()[0], (4, (2000 - u64::from(target)) * 4096));
        }
    }
}

#[test]
fn a_removed_device_is_a_fault_and_has_no_target() {
    let (_guest, host, mut driver) = open(Ring::Split);
    let mut pages = Pages::new(100, 3);
    host.set_target(40);
    settle(&host, &mut driver, &mut pages).unwrap();
    host.device().registers().is_gone = true;
    let mut fault = None;
    for _ in 0..10 {
        fault = driver.poll(&mut pages).err().or(fault);
    }
    assert_eq!((fault, driver.info().held, pages.taken.len()), (Some(Fault::Removed), 40, 40));
}
