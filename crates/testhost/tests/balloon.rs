//! The Hyper-V balloon driver against the model of a host.

use core::time::Duration;
use hyperv_bindings::dynmem::{DmMessageType, DmVersion};
use hyperv_bindings::{Guid, vmbus::DYNAMIC_MEMORY};
use paravirt_device::{Arm, Balloon, Fault, Notify, PageRange};
use paravirt_hv_balloon::{HvBalloon, OpenError};
use paravirt_hyperv::Hypervisor;
use paravirt_platform::{Instant, PageArc};
use paravirt_testhost::{BalloonHost, Guest, HvHost, HvOffer, OfferSettings, Pages};
use paravirt_vmbus::{ChannelOptions, Version, Vmbus};
use proptest::prelude::*;

struct Bench {
    balloon: HvBalloon<Guest>,
    device: BalloonHost,
    host: HvHost,
    guest: Guest,
    _vmbus: Vmbus<Guest>,
    _hypervisor: PageArc<Guest, Hypervisor<Guest>>,
}

impl Bench {
    fn with(device: BalloonHost) -> Result<Self, OpenError> {
        let guest = Guest::with(1, true);
        let clock = guest.downgrade();
        guest.attach(move || clock.turn(Duration::from_secs(1)));
        let host = HvHost::new(&guest, HvOffer::least());
        let settings =
            OfferSettings { interface: DYNAMIC_MEMORY, instance: Guid([3; 16]), ..OfferSettings::default() };
        host.add(&guest, settings, device.clone());
        let hypervisor = Hypervisor::open(&guest).unwrap();
        let vmbus = Vmbus::connect(&hypervisor, Version::NEWEST).unwrap();
        let offer = vmbus.find(&Guid([3; 16]), 0).unwrap();
        let balloon = HvBalloon::open(&guest, &vmbus, &offer, &ChannelOptions::default())?;
        Ok(Self { balloon, device, host, guest, _vmbus: vmbus, _hypervisor: hypervisor })
    }

    fn new() -> Self {
        Self::with(BalloonHost::new(DmVersion::WIN10)).unwrap()
    }

    /// Runs both sides until they are idle.
    fn poll(&mut self, pages: &mut Pages) -> Result<(), Fault> {
        for _ in 0..200 {
            self.host.work(&self.guest, 1);
            self.balloon.poll(pages)?;
            if self.balloon.arm() == Arm::Armed {
                break;
            }
        }
        Ok(())
    }
}

#[test]
fn the_newest_common_version_is_negotiated() {
    for (version, numbers) in
        [(DmVersion::WIN10, (2, 0)), (DmVersion::WIN8, (1, 0)), (DmVersion::WIN7, (0, 3))]
    {
        assert_eq!(Bench::with(BalloonHost::new(version)).unwrap().balloon.version(), numbers);
    }
    assert!(matches!(Bench::with(BalloonHost::new(DmVersion(2))), Err(OpenError::Version)));
}

#[test]
fn exactly_the_requested_pages_are_ballooned_and_returned() {
    let mut bench = Bench::new();
    // In ranges of one page, so that a response takes several messages.
    let mut pages = Pages::new(3000, 1);
    bench.device.inflate(11, 1700);
    bench.poll(&mut pages).unwrap();
    assert_eq!((pages.taken.len(), bench.balloon.info().held), (1700, 1700));
    let held = bench.device.held();
    assert_eq!(held.iter().map(|(_, count)| count).sum::<u64>(), 1700);
    let responses = bench.device.answers();
    assert!(responses.len() == 4 && responses.iter().all(|a| *a == (DmMessageType::BALLOON_RESPONSE.0, 11)));
    bench.device.deflate(12, &[(1000, 500)], true);
    bench.device.deflate(12, &[(1600, 100), (1500, 100)], false);
    bench.poll(&mut pages).unwrap();
    assert_eq!((pages.taken.len(), bench.balloon.info().held), (1000, 1000));
    assert_eq!(bench.device.answers().last(), Some(&(DmMessageType::UNBALLOON_RESPONSE.0, 12)));
    // More pages than there are: all that are free, and then none.
    bench.device.inflate(13, 1_000_000);
    bench.poll(&mut pages).unwrap();
    assert_eq!(bench.balloon.info().held, 3000);
    bench.device.inflate(14, 1);
    bench.poll(&mut pages).unwrap();
    assert_eq!(bench.device.answers().last(), Some(&(DmMessageType::BALLOON_RESPONSE.0, 14)));
    assert_eq!(bench.host.violations(), [""; 0]);
}

#[test]
fn hot_added_memory_is_reported_as_far_as_the_kernel_accepts_it() {
    let mut bench = Bench::new();
    let mut pages = Pages::new(10, 10);
    bench.device.hot_add(1, 0x10_0000, 0x8000);
    bench.device.hot_add(2, 0x20_0000, 1);
    bench.poll(&mut pages).unwrap();
    assert_eq!(pages.added[0], PageRange { first: 0x10_0000, count: 0x8000 });
    assert_eq!(bench.device.hot_added(), [(0x4000, 1), (0, 0)]);
    assert_eq!(bench.balloon.info().added, 0x4000);
}

#[test]
fn the_driver_sends_a_status_report_every_second() {
    let mut bench = Bench::new();
    let mut pages = Pages::new(10, 10);
    bench.device.inflate(1, 4);
    bench.poll(&mut pages).unwrap();
    for _ in 0..5 {
        bench.guest.turn(Duration::from_secs(1));
        assert!(bench.balloon.next_deadline() <= bench.guest_now());
        bench.poll(&mut pages).unwrap();
        assert!(bench.balloon.next_deadline() > bench.guest_now());
    }
    assert_eq!(bench.balloon.info().reports, 5);
    let status = bench.device.status().unwrap();
    assert_eq!((status.available, status.committed, status.zero_and_free), (11, 77 + 4, 6));
    let device = BalloonHost::new(DmVersion::WIN10);
    device.suppress_reports();
    let mut quiet = Bench::with(device).unwrap();
    quiet.guest.turn(Duration::from_secs(9));
    quiet.poll(&mut pages).unwrap();
    assert_eq!((quiet.balloon.info().reports, quiet.balloon.next_deadline()), (0, Instant::NEVER));
}

impl Bench {
    fn guest_now(&self) -> Instant {
        paravirt_platform::Platform::now(&self.guest)
    }
}

#[test]
fn pages_that_are_not_ballooned_are_not_taken_back() {
    for (ranges, held) in [
        (&[(1000u64, 5u64)][..], 4),
        (&[(1000, 4), (1002, 1)], 0),
        (&[(5, 1), (1000, 1)], 3),
        (&[((1 << 40) - 1, 0xff_ffff)], 4),
        (&[(1000, 0)], 4),
    ] {
        let mut bench = Bench::new();
        let mut pages = Pages::new(10, 10);
        bench.device.inflate(1, 4);
        bench.poll(&mut pages).unwrap();
        bench.device.deflate(2, ranges, false);
        bench.poll(&mut pages).unwrap();
        assert_eq!((bench.balloon.info().held, pages.taken.len()), (held, held as usize), "{ranges:?}");
        assert_eq!(bench.balloon.malformed_messages(), 1, "{ranges:?}");
        // The balloon is still in service.
        bench.device.inflate(3, 2);
        bench.poll(&mut pages).unwrap();
        assert_eq!(bench.balloon.info().held, held + 2);
    }
}

#[test]
fn messages_that_are_odd_are_counted_and_ignored() {
    let mut bench = Bench::new();
    let mut pages = Pages::new(10, 10);
    // Too short; longer than the packet; answers to nothing; an unknown type, which is not malformed.
    let odd: [&[u8]; 5] = [
        &[6, 0, 4],
        &[6, 0, 200, 0, 1, 0, 0, 0],
        &[2, 0, 16, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0],
        &[4, 0, 16, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0],
        &[99, 0, 8, 0, 1, 0, 0, 0],
    ];
    odd.iter().for_each(|message| bench.device.send(message));
    bench.device.inflate(1, 4);
    bench.poll(&mut pages).unwrap();
    assert_eq!((bench.balloon.info().held, bench.balloon.malformed_messages()), (4, 4));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever the host sends, each page belongs either to the kernel or to the host.
    #[test]
    fn messages_of_any_kind(messages in prop::collection::vec(
        (any::<u16>(), prop::collection::vec(any::<u8>(), 0..64), any::<bool>()), 1..30)) {
        let mut bench = Bench::new();
        let mut pages = Pages::new(200, 7);
        for (kind, mut bytes, likely) in messages {
            bench.device.inflate(5, u32::from(kind) % 50);
            let len = bytes.len() as u16 + 8;
            let kind = if likely { kind % 15 } else { kind };
            let mut message = vec![kind as u8, (kind >> 8) as u8, len as u8, (len >> 8) as u8, 9, 0, 0, 0];
            if likely && bytes.len() >= 16 {
                // Often a range near existing pages.
                bytes[0] &= 1;
                bytes[1..8].copy_from_slice(&[0, 0, 0, 1, 0, 0, 0]);
                let range = (1000 + u64::from(bytes[8] % 64)) | (u64::from(bytes[9] % 8) << 40);
                bytes[8..16].copy_from_slice(&range.to_le_bytes());
            }
            message.extend(bytes);
            bench.device.send(&message);
            let result = bench.poll(&mut pages);
            prop_assert_eq!(pages.taken.len() as u64, bench.balloon.info().held);
            prop_assert_eq!(pages.taken.len() + pages.free.len(), 200);
            if result.is_err() {
                break;
            }
        }
    }
}
