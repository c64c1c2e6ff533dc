//! VMBus on a host that is busy, late or old: it is waited for as long as real hosts are known to need, and not longer than there is
//! something to wait for.

use paravirt_device::Fault;
use paravirt_hyperv::{HvStatus, Hypervisor};
use paravirt_platform::{PageArc, Platform};
use paravirt_testhost::{Echo, Guest, HvHost, HvOffer, OfferSettings};
use paravirt_vmbus::{BusEvent, ChannelOptions, Guid, Offer, Timeouts, Version, Vmbus};
use std::time::Duration;

use hyperv_bindings::vmbus::VmbusMessageType;

type Connection = (PageArc<Guest, Hypervisor<Guest>>, Vmbus<Guest>);

/// A machine whose clock advances by `step` whenever a driver waits.
fn machine(step: Duration) -> (Guest, HvHost) {
    let guest = Guest::with(1, true);
    let host = HvHost::new(&guest, HvOffer::least());
    add(&guest, &host, 7);
    let clock = guest.downgrade();
    guest.attach(move || clock.turn(step));
    (guest, host)
}

fn add(guest: &Guest, host: &HvHost, instance: u8) {
    let instance = Guid([instance; 16]);
    host.add(guest, OfferSettings { instance, ..OfferSettings::new(Guid([1; 16])) }, Echo);
}

fn connect(guest: &Guest, newest: Version) -> Connection {
    let hypervisor = Hypervisor::open(guest).expect("a hypervisor");
    let vmbus = Vmbus::connect(&hypervisor, newest).expect("a connection");
    (hypervisor, vmbus)
}

fn offers(vmbus: &Vmbus<Guest>) -> Vec<Offer> {
    let mut all = vec![];
    vmbus.offers(&mut |offer| all.push(*offer));
    all
}

fn is_clean(guest: &Guest, host: &HvHost) {
    assert_eq!(host.violations(), [""; 0]);
    assert_eq!((guest.pages(), host.gpadls().0), (0, 0), "memory leaked");
    assert!(!host.is_in_use(), "registers are still enabled");
}

/// Azure refuses messages for up to ten seconds where a guest posts many, with either status.
#[test]
fn a_message_is_posted_again_for_ten_seconds_with_pauses() {
    for status in [HvStatus::INVALID_CONNECTION_ID, HvStatus::INSUFFICIENT_BUFFERS] {
        let (guest, host) = machine(Duration::from_millis(1));
        let (hypervisor, vmbus) = connect(&guest, Version::NEWEST);
        // With pauses of 64 ms at most, these take longer than ten seconds, and they are few.
        host.refuse(&[status; 180]);
        let before = guest.now();
        let channel = vmbus.open(&offers(&vmbus)[0], &ChannelOptions::default()).expect("a channel");
        let waited = guest.now().since(before);
        assert!((Duration::from_secs(10)..Duration::from_secs(60)).contains(&waited), "{waited:?}");
        drop((channel, vmbus, hypervisor));
        is_clean(&guest, &host);
    }
}

#[test]
fn a_host_that_never_reports_its_last_offer_is_used_with_those_that_came() {
    let (guest, host) = machine(Duration::from_millis(100));
    host.faults(&guest, |faults| faults.drop = vec![VmbusMessageType::ALL_OFFERS_DELIVERED]);
    let (hypervisor, vmbus) = connect(&guest, Version::NEWEST);
    let first = offers(&vmbus);
    assert_eq!(first.len(), 1);
    add(&guest, &host, 8);
    let Some(BusEvent::Offered(late)) = vmbus.poll() else { panic!("a late offer is a hot-added device") };
    assert_eq!(late.instance, Guid([8; 16]));
    drop(vmbus.open(&late, &ChannelOptions::default()).expect("a channel"));
    drop((vmbus, hypervisor));
    is_clean(&guest, &host);
}

/// Under load the host answers after tens of seconds.
#[test]
fn a_channel_whose_opening_is_answered_late_is_opened() {
    let (guest, host) = machine(Duration::from_millis(100));
    let (hypervisor, vmbus) = connect(&guest, Version::NEWEST);
    let offer = offers(&vmbus)[0];
    host.faults(&guest, |faults| faults.delay = true);
    let (handle, other, start) = (guest.downgrade(), host.clone(), guest.now());
    guest.attach(move || {
        handle.with(|guest| {
            if guest.now().since(start) > Duration::from_secs(120) {
                other.deliver(guest, |_| ());
            }
        });
    });
    let channel = vmbus.open(&offer, &ChannelOptions::default()).expect("a channel");
    assert!(guest.now().since(start) > Duration::from_secs(120));
    drop((channel, vmbus, hypervisor));
    is_clean(&guest, &host);
}

/// The waits are the kernel's to choose; a channel that failed to open can be opened later.
#[test]
fn a_channel_that_was_not_answered_in_time_can_be_opened_again() {
    let (guest, host) = machine(Duration::from_millis(10));
    let hypervisor = Hypervisor::open(&guest).expect("a hypervisor");
    let timeouts = Timeouts::new().with_answer(Duration::from_secs(1));
    let vmbus = Vmbus::connect_with(&hypervisor, Version::NEWEST, timeouts).expect("a connection");
    let offer = offers(&vmbus)[0];
    host.faults(&guest, |faults| faults.drop = vec![VmbusMessageType::OPEN_CHANNEL_RESULT]);
    let before = guest.now();
    assert!(vmbus.open(&offer, &ChannelOptions::default()).is_err());
    assert!(guest.now().since(before) < Duration::from_secs(4));
    host.faults(&guest, |faults| faults.drop.clear());
    drop(vmbus.open(&offer, &ChannelOptions::default()).expect("a channel"));
    drop((vmbus, hypervisor));
    is_clean(&guest, &host);
}

/// The message came with VMBus 3.0; before, nobody answers it.
#[test]
fn a_connection_before_3_0_ends_without_unload_and_without_a_wait() {
    for version in [Version::new(1, 1), Version::new(2, 4)] {
        let (guest, host) = machine(Duration::from_millis(100));
        let (hypervisor, vmbus) = connect(&guest, version);
        let channel = vmbus.open(&offers(&vmbus)[0], &ChannelOptions::default()).expect("a channel");
        let before = guest.now();
        assert_eq!(vmbus.unload(), Err(Fault::Timeout), "the host still uses the channel");
        drop(channel);
        assert_eq!(vmbus.unload(), Ok(()));
        assert!(guest.now().since(before) < Duration::from_secs(5));
        drop((vmbus, hypervisor));
        is_clean(&guest, &host);
    }
}

/// The host forgets the port of a channel that it has rescinded before its message about that arrives.
#[test]
fn a_signal_that_is_refused_after_a_rescind_means_removed() {
    let (guest, host) = machine(Duration::from_millis(1));
    let (hypervisor, vmbus) = connect(&guest, Version::NEWEST);
    let mut channel = vmbus.open(&offers(&vmbus)[0], &ChannelOptions::default()).expect("a channel");
    host.faults(&guest, |faults| faults.delay = true);
    host.rescind(&guest, 1);
    channel.send_in_band(1, false, &[&[0; 8]]).expect("room");
    channel.kick();
    assert_eq!(channel.fault(), Some(Fault::Removed));
    host.deliver(&guest, |_| ());
    assert_eq!(channel.fault(), Some(Fault::Removed));
    host.faults(&guest, |faults| faults.delay = false);
    drop((channel, vmbus, hypervisor));
    assert_eq!(host.violations(), [""; 0]);
    assert_eq!(guest.pages(), 0);
}

#[test]
fn a_host_that_takes_no_message_is_waited_for_once_for_all_channels_that_went() {
    let (guest, host) = machine(Duration::from_millis(10));
    (8..24).for_each(|instance| add(&guest, &host, instance));
    let (hypervisor, vmbus) = connect(&guest, Version::NEWEST);
    let channels: Vec<u32> = offers(&vmbus).iter().map(|offer| offer.channel).collect();
    assert_eq!(channels.len(), 17);
    channels.iter().for_each(|channel| host.rescind(&guest, *channel));
    host.refuse(&[HvStatus::INSUFFICIENT_BUFFERS; 10_000]);
    let before = guest.now();
    let removed = std::iter::from_fn(|| vmbus.poll()).count();
    let waited = guest.now().since(before);
    assert_eq!(removed, 17);
    assert!((Duration::from_secs(60)..Duration::from_secs(70)).contains(&waited), "{waited:?}");
    // It takes messages again: the next one is waited for as long as ever.
    host.stop_refusing();
    add(&guest, &host, 30);
    assert!(matches!(vmbus.poll(), Some(BusEvent::Offered(_))));
    drop(vmbus.open(&offers(&vmbus)[0], &ChannelOptions::default()).expect("a channel"));
    drop((vmbus, hypervisor));
    is_clean(&guest, &host);
}

#[test]
fn a_host_that_was_busy_once_is_waited_for_again_later() {
    let (guest, host) = machine(Duration::from_millis(10));
    add(&guest, &host, 8);
    let (hypervisor, vmbus) = connect(&guest, Version::NEWEST);
    let channels: Vec<u32> = offers(&vmbus).iter().map(|offer| offer.channel).collect();
    host.rescind(&guest, channels[0]);
    host.refuse(&[HvStatus::INSUFFICIENT_BUFFERS; 10_000]);
    assert!(matches!(vmbus.poll(), Some(BusEvent::Removed(_))));
    assert_eq!(host.channels(), 2, "the host does not know that the channel was released");
    guest.turn(Duration::from_secs(61));
    host.stop_refusing();
    host.refuse(&[HvStatus::INSUFFICIENT_BUFFERS; 3]);
    host.rescind(&guest, channels[1]);
    assert!(matches!(vmbus.poll(), Some(BusEvent::Removed(_))));
    assert_eq!(host.channels(), 1);
    drop((vmbus, hypervisor));
}
