//! The drivers of the hypervisor and VMBus against the model of a host.

use core::time::Duration;
use hyperv_bindings::Guid;
use hyperv_bindings::tlfs::{HvFeatureFlags, HvPrivilegeFlags, HvStatus};
use hyperv_bindings::vmbus::VmbusMessageType;
use paravirt_device::{Arm, Clock, Fault};
use paravirt_hyperv::{Hypervisor, ReferenceClock, SyntheticTimer, TimerSignal};
use paravirt_platform::{DmaRegion, Handled, PageArc, Platform, ProcessorId, RawHandler};
use paravirt_testhost::{Echo, Guest, HvHost, HvOffer, OfferSettings, Wakes};
use paravirt_vmbus::{
    BusEvent, Channel, ChannelError, ChannelOptions, ConnectError, GpaRange, Kind, Offer, SendError, Version,
    Vmbus,
};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

const INSTANCE: Guid = Guid([7; 16]);

fn settings(instance: u8) -> OfferSettings {
    OfferSettings { interface: Guid([1; 16]), instance: Guid([instance; 16]), ..OfferSettings::default() }
}

fn machine(interrupts: bool) -> (Guest, HvHost) {
    let guest = Guest::with(3, interrupts);
    let host = HvHost::new(&guest, HvOffer::least());
    host.add(&guest, settings(7), Echo);
    (guest, host)
}

/// The hypervisor and the VMBus connection.
type Connection = (PageArc<Guest, Hypervisor<Guest>>, Vmbus<Guest>);

fn connect(guest: &Guest, newest: Version) -> Result<Connection, ConnectError> {
    let hypervisor = Hypervisor::open(guest).unwrap();
    let vmbus = Vmbus::connect(&hypervisor, newest)?;
    Ok((hypervisor, vmbus))
}

fn offers(vmbus: &Vmbus<Guest>) -> Vec<Offer> {
    let mut all = vec![];
    vmbus.offers(&mut |offer| all.push(*offer));
    all
}

fn echo(channel: &mut Channel<Guest>, id: u64) {
    let mut buffer = [0; 4096];
    channel.send_in_band(id, true, &[&id.to_le_bytes()]).unwrap();
    channel.kick();
    let packet = channel.wait(&mut buffer, Duration::from_secs(1)).unwrap();
    assert_eq!(
        (packet.kind, packet.transaction, packet.payload),
        (Kind::COMPLETION, id, &id.to_le_bytes()[..])
    );
}

/// Checks that the host has no memory of the guest, and that there was no violation.
fn is_clean(guest: &Guest, host: &HvHost) {
    assert_eq!(host.violations(), [""; 0]);
    assert_eq!((guest.pages(), host.gpadls().0), (0, 0), "memory leaked");
    assert!(!host.is_in_use(), "registers are still enabled");
}

#[test]
fn every_version_connects_and_echoes_with_interrupts_and_without() {
    for interrupts in [true, false] {
        for newest in Version::ALL {
            let (guest, host) = machine(interrupts);
            host.faults(&guest, |faults| faults.newest = newest.0);
            let (hypervisor, vmbus) = connect(&guest, Version::NEWEST).unwrap();
            assert_eq!(vmbus.version(), newest);
            let (proposed, spoken) = host.versions();
            assert_eq!((proposed.last(), spoken), (Some(&newest.0), newest.0));
            assert_eq!(host.processors_in_use().len(), 3);
            let [offer] = offers(&vmbus)[..] else { panic!("one offer") };
            let options = ChannelOptions::default().with_processor(ProcessorId(1));
            let mut channel = vmbus.open(&offer, &options).unwrap();
            let (count, waker) = Wakes::new();
            channel.register(&waker);
            let armed = if interrupts { Arm::Armed } else { Arm::Unsignalled };
            assert_eq!((channel.arm(), vmbus.arm()), (armed, armed));
            (1..100).for_each(|id| echo(&mut channel, id));
            assert_eq!(count.get() > 0, interrupts, "woken without interrupts, or not with");
            drop((channel, vmbus, hypervisor));
            is_clean(&guest, &host);
        }
    }
}

#[test]
fn the_version_cap_is_kept_and_the_bus_reconnects() {
    let (guest, host) = machine(true);
    let (hypervisor, vmbus) = connect(&guest, Version::new(5, 2)).unwrap();
    assert_eq!(vmbus.version(), Version::new(5, 2));
    let mut old = vmbus.open(&offers(&vmbus)[0], &ChannelOptions::default()).unwrap();
    for newest in [Version::new(3, 0), Version::NEWEST, Version::new(1, 1)] {
        assert_eq!(vmbus.connect_again(newest), Err(ConnectError::Failed), "the connection still exists");
        vmbus.unload().unwrap();
        vmbus.unload().unwrap();
        vmbus.connect_again(newest).unwrap();
        assert_eq!(vmbus.version(), newest);
        let mut channel = vmbus.open(&offers(&vmbus)[0], &ChannelOptions::default()).unwrap();
        echo(&mut channel, 1);
        // The channel of the first connection stays closed.
        assert_eq!(old.receive(&mut [0; 64]), Err(Fault::Removed));
        assert_eq!(old.send_in_band(1, false, &[]), Err(SendError::Faulted(Fault::Removed)));
    }
    drop((old, vmbus, hypervisor));
    is_clean(&guest, &host);
}

#[test]
fn a_channel_of_an_earlier_connection_does_not_affect_a_later_one() {
    let (guest, host) = machine(true);
    let (hypervisor, vmbus) = connect(&guest, Version::NEWEST).unwrap();
    let old = vmbus.open(&offers(&vmbus)[0], &ChannelOptions::default()).unwrap();
    vmbus.unload().unwrap();
    vmbus.connect_again(Version::NEWEST).unwrap();
    let mut new = vmbus.open(&offers(&vmbus)[0], &ChannelOptions::default()).unwrap();
    assert_eq!(old.set_processor(ProcessorId(2)), Err(ChannelError::Gone));
    let memory = old.add_memory(DmaRegion::alloc(&guest, 4096).unwrap());
    assert_eq!(memory.err(), Some(ChannelError::Gone));
    drop(old);
    assert_eq!(vmbus.open(&offers(&vmbus)[0], &ChannelOptions::default()).err(), Some(ChannelError::Busy));
    echo(&mut new, 4);
    drop((new, vmbus, hypervisor));
    is_clean(&guest, &host);
}

#[test]
fn a_channel_that_cannot_be_closed_is_not_torn_down() {
    let (guest, host) = machine(true);
    let clock = guest.downgrade();
    guest.attach(move || clock.turn(Duration::from_millis(1)));
    let (hypervisor, vmbus) = connect(&guest, Version::NEWEST).unwrap();
    let channel = vmbus.open(&offers(&vmbus)[0], &ChannelOptions::default()).unwrap();
    // For longer than the retries of a throttled message.
    host.refuse(&[HvStatus::INVALID_CONNECTION_ID; 5000]);
    drop(channel);
    assert!(host.is_open(1), "the host still has the channel open");
    host.stop_refusing();
    drop((vmbus, hypervisor));
    assert_eq!((guest.pages(), host.violations().len()), (8, 0), "the rings are leaked");
}

#[test]
fn an_unconfirmed_unload_can_be_retried_or_skipped() {
    let (guest, host) = machine(true);
    let clock = guest.downgrade();
    guest.attach(move || clock.turn(Duration::from_secs(1)));
    let (hypervisor, vmbus) = connect(&guest, Version::NEWEST).unwrap();
    let mut channel = vmbus.open(&offers(&vmbus)[0], &ChannelOptions::default()).unwrap();
    host.faults(&guest, |faults| faults.drop = vec![VmbusMessageType::UNLOAD_COMPLETE]);
    assert_eq!(vmbus.unload(), Err(Fault::Timeout));
    vmbus.connect_again(Version::NEWEST).unwrap();
    assert_eq!(channel.receive(&mut [0; 64]), Err(Fault::Removed));
    echo(&mut vmbus.open(&offers(&vmbus)[0], &ChannelOptions::default()).unwrap(), 5);
    drop(channel);
    host.faults(&guest, |faults| faults.drop.clear());
    drop((vmbus, hypervisor));
    is_clean(&guest, &host);
}

#[test]
fn the_connection_state_is_ignored_before_vmbus_4_0() {
    let (guest, host) = machine(true);
    host.faults(&guest, |faults| (faults.newest, faults.connection_state) = (Version::new(1, 1).0, 77));
    let parts = connect(&guest, Version::NEWEST).unwrap();
    assert_eq!(parts.1.version(), Version::new(1, 1));
    drop(parts);
    is_clean(&guest, &host);
}

#[test]
fn refusals_leave_nothing_behind() {
    type Change = fn(&Guest, &HvHost);
    let cases: [(Change, ConnectError); 4] = [
        (|g, h| h.faults(g, |f| f.connection_state = 2), ConnectError::Failed),
        (|g, h| h.faults(g, |f| f.newest = 1), ConnectError::Version),
        (|g, h| h.faults(g, |f| f.drop = vec![VmbusMessageType::VERSION_RESPONSE]), ConnectError::Timeout),
        (|_, h| h.refuse(&[HvStatus::ACCESS_DENIED]), ConnectError::Refused(HvStatus::ACCESS_DENIED)),
    ];
    for (change, expected) in cases {
        let (guest, host) = machine(true);
        let clock = guest.downgrade();
        guest.attach(move || clock.turn(Duration::from_millis(100)));
        change(&guest, &host);
        assert_eq!(connect(&guest, Version::NEWEST).map(|_| ()), Err(expected));
        is_clean(&guest, &host);
    }
}

#[test]
fn a_message_is_retried_if_the_host_has_no_buffers() {
    let (guest, host) = machine(true);
    host.refuse(&[HvStatus::INSUFFICIENT_BUFFERS; 20]);
    host.refuse(&[HvStatus::TIMEOUT, HvStatus::INSUFFICIENT_MEMORY]);
    let parts = connect(&guest, Version::NEWEST).unwrap();
    // Throttled: for a while the host reports an unknown connection.
    host.refuse(&[HvStatus::INVALID_CONNECTION_ID; 2]);
    drop(parts.1.open(&offers(&parts.1)[0], &ChannelOptions::default()).unwrap());
    drop(parts);
    is_clean(&guest, &host);
}

#[test]
fn a_gpadl_is_created_up_to_the_protocol_limit() {
    let (guest, host) = machine(true);
    let (hypervisor, vmbus) = connect(&guest, Version::NEWEST).unwrap();
    let channel = vmbus.open(&offers(&vmbus)[0], &ChannelOptions::default()).unwrap();
    for pages in [1usize, 26, 27, 54, 55, 8190] {
        let memory = channel.add_memory(DmaRegion::alloc(&guest, pages * 4096).unwrap()).unwrap();
        assert_eq!(host.gpadls(), (2, pages + 8), "{pages}");
        drop(memory);
        assert_eq!(host.gpadls(), (1, 8));
    }
    let long = DmaRegion::alloc(&guest, 8191 * 4096).unwrap();
    assert_eq!(channel.add_memory(long).err(), Some(ChannelError::Size));
    host.faults(&guest, |faults| faults.gpadl_status = 5);
    let refused = channel.add_memory(DmaRegion::alloc(&guest, 4096).unwrap()).err();
    assert_eq!(refused, Some(ChannelError::Refused(5)));
    drop((channel, vmbus, hypervisor));
    is_clean(&guest, &host);
}

#[test]
fn a_channel_is_opened_once_at_a_time_and_again() {
    let (guest, host) = machine(true);
    let (hypervisor, vmbus) = connect(&guest, Version::NEWEST).unwrap();
    let offer = offers(&vmbus)[0];
    let first = vmbus.open(&offer, &ChannelOptions::default()).unwrap();
    assert_eq!(vmbus.open(&offer, &ChannelOptions::default()).err(), Some(ChannelError::Busy));
    drop(first);
    host.faults(&guest, |faults| faults.open_status = 9);
    assert_eq!(vmbus.open(&offer, &ChannelOptions::default()).err(), Some(ChannelError::Refused(9)));
    host.faults(&guest, |faults| faults.open_status = 0);
    for turn in 0..20 {
        let options = ChannelOptions::default().with_rings(2 + turn % 3, 2);
        let mut channel = vmbus.open(&offer, &options).unwrap();
        (1..200).for_each(|id| echo(&mut channel, id));
    }
    let short = ChannelOptions::default().with_rings(4, 1);
    assert_eq!(vmbus.open(&offer, &short).err(), Some(ChannelError::Size));
    drop((vmbus, hypervisor));
    is_clean(&guest, &host);
}

#[test]
fn a_rescinded_channel_is_released_after_its_last_use() {
    let (guest, host) = machine(true);
    let second = host.add(&guest, settings(8), Echo);
    let (hypervisor, vmbus) = connect(&guest, Version::NEWEST).unwrap();
    let [open, unused] = offers(&vmbus)[..] else { panic!("two offers") };
    let mut channel = vmbus.open(&open, &ChannelOptions::default()).unwrap();
    let memory = channel.add_memory(DmaRegion::alloc(&guest, 4096).unwrap()).unwrap();
    let (count, waker) = Wakes::new();
    channel.register(&waker);
    host.rescind(&guest, 1);
    host.rescind(&guest, second);
    assert_eq!(vmbus.arm(), Arm::Pending);
    assert_eq!(channel.receive(&mut [0; 64]), Err(Fault::Removed));
    assert!(count.get() > 0, "the driver was not woken");
    assert_eq!(vmbus.open(&unused, &ChannelOptions::default()).err(), Some(ChannelError::Gone));
    assert_eq!(
        (vmbus.poll(), vmbus.poll()),
        (Some(BusEvent::Removed(open)), Some(BusEvent::Removed(unused)))
    );
    assert_eq!((vmbus.poll(), vmbus.arm()), (None, Arm::Armed));
    assert!(host.has(1) && !host.has(second), "an unused channel is released at once");
    drop(channel);
    assert!(host.has(1), "its memory is not torn down");
    drop(memory);
    assert!(!host.has(1));
    // The device is offered again, and another one with it.
    let back = host.add(&guest, settings(7), Echo);
    let Some(BusEvent::Offered(offer)) = vmbus.poll() else { panic!("no offer") };
    assert_eq!((offer.channel, offer.instance), (back, INSTANCE));
    let further = OfferSettings { subchannel: 1, ..settings(7) };
    host.add(&guest, further, Echo);
    assert_eq!(vmbus.find(&INSTANCE, 1).map(|offer| offer.subchannel), Some(1));
    echo(&mut vmbus.open(&offer, &ChannelOptions::default()).unwrap(), 3);
    drop((vmbus, hypervisor));
    is_clean(&guest, &host);
}

#[test]
fn a_rescind_during_open_ends_the_open() {
    for missing in [VmbusMessageType::OPEN_CHANNEL_RESULT, VmbusMessageType::GPADL_CREATED] {
        let (guest, host) = machine(true);
        let (hypervisor, vmbus) = connect(&guest, Version::NEWEST).unwrap();
        let offer = offers(&vmbus)[0];
        host.faults(&guest, |faults| faults.drop = vec![missing]);
        let (handle, other) = (guest.downgrade(), host.clone());
        guest.attach(move || handle.with(|guest| other.rescind(guest, 1)));
        assert_eq!(vmbus.open(&offer, &ChannelOptions::default()).err(), Some(ChannelError::Gone));
        drop((vmbus, hypervisor));
        assert!(!host.is_in_use());
        if missing == VmbusMessageType::OPEN_CHANNEL_RESULT {
            assert_eq!((guest.pages(), host.violations().len()), (0, 0));
        }
    }
}

#[test]
fn memory_that_the_host_does_not_release_is_leaked_until_the_connection_ends() {
    let (guest, host) = machine(true);
    let clock = guest.downgrade();
    guest.attach(move || clock.turn(Duration::from_millis(100)));
    let (hypervisor, vmbus) = connect(&guest, Version::NEWEST).unwrap();
    let before = guest.pages();
    let channel = vmbus.open(&offers(&vmbus)[0], &ChannelOptions::default()).unwrap();
    host.faults(&guest, |faults| faults.drop = vec![VmbusMessageType::GPADL_TORNDOWN]);
    drop(channel);
    assert_eq!(guest.pages(), before + 8, "the rings are leaked");
    drop((vmbus, hypervisor));
    assert_eq!(guest.pages(), 8);
}

#[test]
fn a_batch_is_signalled_once_and_answered_with_one_interrupt() {
    let (guest, host) = machine(true);
    let (hypervisor, vmbus) = connect(&guest, Version::NEWEST).unwrap();
    let mut channel = vmbus.open(&offers(&vmbus)[0], &ChannelOptions::default()).unwrap();
    let mut buffer = [0; 256];
    for _ in 0..10 {
        assert_eq!(channel.arm(), Arm::Armed);
        let (before, interrupts) = (host.signals(1), guest.interrupts());
        for id in 0..32 {
            channel.send_in_band(id, true, &[&[id as u8; 40]]).unwrap();
        }
        channel.kick();
        channel.kick();
        let mut count = 0;
        while channel.receive(&mut buffer).unwrap().is_some() {
            count += 1;
        }
        let after = host.signals(1);
        assert_eq!((count, after.0 - before.0, after.1 - before.1), (32, 1, 1));
        assert_eq!(guest.interrupts() - interrupts, 1);
    }
    // Polling masks interrupts.
    channel.disarm();
    let interrupts = guest.interrupts();
    (1..50).for_each(|id| echo(&mut channel, id));
    assert_eq!(guest.interrupts(), interrupts);
    drop((channel, vmbus, hypervisor));
    is_clean(&guest, &host);
}

#[test]
fn a_full_ring_is_waited_for_in_both_directions() {
    let (guest, host) = machine(true);
    let (hypervisor, vmbus) = connect(&guest, Version::NEWEST).unwrap();
    let options = ChannelOptions::default().with_rings(2, 2);
    let mut channel = vmbus.open(&offers(&vmbus)[0], &options).unwrap();
    let bytes = [3; 400];
    let mut sent = 0u64;
    while channel.send_in_band(sent, true, &[&bytes]).is_ok() {
        sent += 1;
    }
    assert_eq!(sent, 4088 / 424);
    // The host reads what was published, and responds until the guest's ring is full.
    assert_eq!(channel.await_room(400), Ok(true));
    let mut buffer = [0; 1024];
    let mut answered = 0;
    for round in 0..50 {
        while round < 48 && channel.send_in_band(sent, true, &[&bytes]).is_ok() {
            sent += 1;
        }
        channel.kick();
        while let Some(packet) = channel.receive(&mut buffer).unwrap() {
            assert_eq!((packet.transaction, packet.payload), (answered, &bytes[..]));
            answered += 1;
        }
    }
    assert_eq!(answered, sent, "a response is missing");
    assert!(sent > 400);
    drop((channel, vmbus, hypervisor));
    is_clean(&guest, &host);
}

#[test]
fn guest_memory_is_sent_as_page_numbers() {
    let (guest, host) = machine(true);
    let (hypervisor, vmbus) = connect(&guest, Version::NEWEST).unwrap();
    let mut channel = vmbus.open(&offers(&vmbus)[0], &ChannelOptions::default()).unwrap();
    let region = DmaRegion::alloc(&guest, 3 * 4096).unwrap();
    let frame = region.bus().0 >> 12;
    let range = GpaRange { len: 6000, offset: 100, pages: [frame + 2, frame].into_iter() };
    // SAFETY: the range is in a region that is kept until the completion, and accessed as atomics only.
    unsafe { channel.send_gpa_ranges(0x41, [range].into_iter(), &[b"please"]) }.unwrap();
    channel.kick();
    let mut buffer = [0; 64];
    assert_eq!(channel.wait(&mut buffer, Duration::from_secs(1)).unwrap().transaction, 0x41);
    let bytes = guest.read(region.bus().0, 3 * 4096);
    let filled: Vec<bool> = bytes.iter().map(|byte| *byte == 0x41).collect();
    let expected = |at: usize| !(6000 - 3996..8192 + 100).contains(&at);
    assert!((0..bytes.len()).all(|at| filled[at] == expected(at)));
    drop((region, channel, vmbus, hypervisor));
    is_clean(&guest, &host);
}

#[test]
fn a_channel_moves_to_another_processor_if_the_version_supports_it() {
    for (newest, moves) in
        [(Version::new(5, 3), true), (Version::new(4, 1), true), (Version::new(4, 0), false)]
    {
        let (guest, host) = machine(true);
        let (hypervisor, vmbus) = connect(&guest, newest).unwrap();
        let mut channel = vmbus.open(&offers(&vmbus)[0], &ChannelOptions::default()).unwrap();
        for processor in [2, 0, 1] {
            let moved = channel.set_processor(ProcessorId(processor));
            assert_eq!(moved, if moves { Ok(()) } else { Err(ChannelError::Size) });
            assert_eq!(channel.arm(), Arm::Armed);
            echo(&mut channel, 5);
        }
        assert_eq!(channel.set_processor(ProcessorId(3)), Err(ChannelError::Size));
        drop((channel, vmbus, hypervisor));
        is_clean(&guest, &host);
    }
}

#[test]
fn many_messages_are_received_through_one_slot() {
    for interrupts in [true, false] {
        let (guest, host) = machine(interrupts);
        (10..200).for_each(|i| {
            host.add(&guest, settings(i), Echo);
        });
        let (hypervisor, vmbus) = connect(&guest, Version::NEWEST).unwrap();
        assert_eq!(offers(&vmbus).len(), 191);
        assert!(host.counts().1 > 100, "end-of-message is written");
        drop((vmbus, hypervisor));
        is_clean(&guest, &host);
    }
}

#[test]
fn late_and_reordered_messages_are_accepted() {
    let (guest, host) = machine(true);
    let (hypervisor, vmbus) = connect(&guest, Version::NEWEST).unwrap();
    host.faults(&guest, |faults| faults.delay = true);
    for i in 20..30 {
        host.add(&guest, settings(i), Echo);
    }
    let (handle, other) = (guest.downgrade(), host.clone());
    guest.attach(move || handle.with(|guest| other.deliver(guest, |messages| messages.reverse())));
    let mut channel = vmbus.open(&offers(&vmbus)[0], &ChannelOptions::default()).unwrap();
    echo(&mut channel, 1);
    let mut found: Vec<u32> = std::iter::from_fn(|| vmbus.poll())
        .map(|event| match event {
            BusEvent::Offered(offer) => offer.channel,
            _ => panic!("nothing was removed"),
        })
        .collect();
    found.sort_unstable();
    assert_eq!(found, (2..12).collect::<Vec<_>>());
    drop((channel, vmbus, hypervisor));
    is_clean(&guest, &host);
}

#[test]
fn the_clock_is_read_from_the_page_or_the_register() {
    let guest = Guest::with(2, true);
    for privileges in [HvPrivilegeFlags::REFERENCE_TSC, HvPrivilegeFlags::empty()] {
        let mut offer = HvOffer::least();
        offer.privileges |= HvPrivilegeFlags::TIME_REF_COUNT | privileges;
        let host = HvHost::new(&guest, offer);
        let hypervisor = Hypervisor::open(&guest).unwrap();
        let clock = ReferenceClock::open(&hypervisor).unwrap();
        assert_eq!(clock.is_from_page(), !privileges.is_empty());
        let before = clock.now();
        guest.turn(Duration::from_secs(5));
        let passed = clock.now().since(before);
        assert!(passed >= Duration::from_secs(5) && passed < Duration::from_secs(60), "{passed:?}");
        drop((clock, hypervisor));
        is_clean(&guest, &host);
    }
    HvHost::new(&guest, HvOffer::least());
    assert!(ReferenceClock::open(&Hypervisor::open(&guest).unwrap()).is_err());
}

#[test]
fn a_timer_fires_once_at_its_time() {
    let guest = Guest::with(2, true);
    let host = HvHost::new(&guest, HvOffer::default());
    let hypervisor = Hypervisor::open(&guest).unwrap();
    let clock = ReferenceClock::open(&hypervisor).unwrap();
    static FIRED: AtomicU32 = AtomicU32::new(0);
    unsafe fn count(_: NonNull<()>) -> Handled {
        FIRED.fetch_add(1, Ordering::SeqCst);
        Handled::Yes
    }
    // SAFETY: the handler has no data.
    let vector = unsafe {
        Platform::interrupts(&guest).bind(RawHandler::new(NonNull::<()>::dangling(), count), ProcessorId(1))
    }
    .unwrap();
    let signal = TimerSignal::Direct(0x30 + vector.0 as u8);
    let timer = SyntheticTimer::open(&hypervisor, ProcessorId(1), 2, signal).unwrap();
    host.run_timers(&guest);
    assert_eq!(FIRED.load(Ordering::SeqCst), 0);
    for round in 1..4 {
        timer.set(clock.reference_time() + 10_000_000).unwrap();
        host.run_timers(&guest);
        assert_eq!(FIRED.load(Ordering::SeqCst), round - 1);
        guest.turn(Duration::from_secs(2));
        host.run_timers(&guest);
        host.run_timers(&guest);
        assert_eq!(FIRED.load(Ordering::SeqCst), round);
    }
    timer.set(1).unwrap();
    timer.stop().unwrap();
    host.run_timers(&guest);
    assert_eq!(FIRED.load(Ordering::SeqCst), 3, "a stopped timer fired");
    assert!(SyntheticTimer::open(&hypervisor, ProcessorId(1), 4, signal).is_err());
    assert!(SyntheticTimer::open(&hypervisor, ProcessorId(1), 0, TimerSignal::Message(0)).is_err());
    drop((timer, clock, hypervisor));
    Platform::interrupts(&guest).unbind(vector);
    is_clean(&guest, &host);
}

#[test]
fn a_crash_is_reported_with_a_text_if_the_host_accepts_one() {
    let guest = Guest::with(1, true);
    let mut offer = HvOffer::default();
    for has_text in [true, false] {
        offer.crash.set(hyperv_bindings::tlfs::HvCrashFlags::MESSAGE, has_text);
        let host = HvHost::new(&guest, offer);
        let hypervisor = Hypervisor::open(&guest).unwrap();
        assert!(hypervisor.report_crash([1, 2, 3, 4, 5], Some("it broke")));
        let [crash] = &host.crashes()[..] else { panic!("one crash") };
        assert_eq!(crash.text.as_deref(), has_text.then_some("it broke"));
        assert_eq!(crash.values[..3], [1, 2, 3]);
        assert_eq!(crash.values[4], if has_text { 8 } else { 5 });
        hypervisor.report_crash([1, 2, 3, 4, 5], Some(&"x".repeat(9000)));
        assert_eq!(host.crashes()[1].text.as_ref().map(String::len), has_text.then_some(4096));
        hypervisor.reset();
        assert_eq!(host.resets(), 1);
    }
    offer.features = HvFeatureFlags::empty();
    let host = HvHost::new(&guest, offer);
    assert!(!Hypervisor::open(&guest).unwrap().report_crash([0; 5], None));
    assert!(host.crashes().is_empty());
}

/// A confidential machine is recognised before the first hypercall, which would end it without a word.
#[test]
fn an_isolated_guest_is_named_ahead_of_the_first_hypercall() {
    use paravirt_hyperv::{IsolationKind, OpenError};
    for (isolation, kind, has_paravisor) in [
        (2, IsolationKind::Snp, false),
        (0x103, IsolationKind::Tdx, true),
        (4, IsolationKind::Other(4), false),
    ] {
        let guest = Guest::with(1, true);
        let mut offer = HvOffer { isolation, ..HvOffer::least() };
        HvHost::new(&guest, offer);
        assert!(Hypervisor::open(&guest).is_ok(), "the privilege says whether the leaf counts");
        offer.privileges |= hyperv_bindings::tlfs::HvPrivilegeFlags::ISOLATION;
        let host = HvHost::new(&guest, offer);
        match Hypervisor::open(&guest) {
            Err(OpenError::Isolated(found)) => {
                assert_eq!((found.kind, found.has_paravisor), (kind, has_paravisor))
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(host.os_id(), 0, "no register was written");
    }
}
