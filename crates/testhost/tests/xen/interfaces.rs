//! The two interfaces of event channels, and the two versions of grants.

use super::*;
use paravirt_xen::{GrantRange, GrantedRegion, HypervisorOptions, Port};

fn offering(has_fifo: bool, has_wide: bool) -> (Guest, XenHost) {
    let (guest, host) = host(true);
    host.set_fifo(has_fifo);
    host.set_wide_grants(has_wide);
    host.add_disk(XVDA, XenDisk::new(pattern(1 << 16)).with("multi-queue-max-queues", "2"));
    host.add_card(0, ALL);
    (guest, host)
}

/// Reads from the disk until `rounds` times an event has woken the task.
fn read_signalled(guest: &Guest, queue: &mut DiskQueue, rounds: usize) {
    let (woken, waker) = Wakes::new();
    queue.register(&waker);
    for round in 0..rounds {
        while queue.arm() == Arm::Pending {
            assert!(queue.complete().unwrap().is_none());
        }
        queue.submit(read(guest, 1, 0, 8192)).unwrap();
        queue.kick();
        assert_eq!(woken.get(), round + 1);
        assert_eq!(done(queue).buffer.unwrap().bytes(), &pattern(1 << 16)[..8192]);
    }
}

#[test]
fn the_same_devices_work_with_each_interface_and_version() {
    for (has_fifo, has_wide) in [(false, false), (true, false), (false, true), (true, true)] {
        let (guest, host) = offering(has_fifo, has_wide);
        let options = HypervisorOptions::new().with_wide_grants(true);
        for _ in 0..3 {
            let hypervisor = Hypervisor::open_with(&guest, &options).unwrap();
            assert_eq!((hypervisor.has_fifo_events(), hypervisor.has_wide_grants()), (has_fifo, has_wide));
            let store = Store::open(&hypervisor).unwrap();
            let mut disk = Disk::open(&store, VBD, &BlkFrontOptions::new().with_queues(2)).unwrap();
            let mut card = Card::open(&store, VIF, &NetFrontOptions::new()).unwrap();
            let (mut queue, mut pair) = (disk.take_queue(0).unwrap(), card.take_queue(0).unwrap());
            read_signalled(&guest, &mut queue, 20);
            pair.poll().unwrap();
            assert!(net::send(&mut pair, &[3; 60]));
            assert_eq!(host.take_sent(0)[0].bytes, [3; 60]);
            drop((queue, disk, pair, card, store, hypervisor));
            assert_eq!((host.grants_in_force(), guest.pages(), guest.bound_handlers()), (0, 0, 0));
        }
        assert_eq!(host.refused(), 0);
    }
}

#[test]
fn a_resume_on_a_host_that_has_less_or_more_goes_on_with_what_there_is() {
    for (before, after) in [(true, false), (false, true), (true, true), (false, false)] {
        let (guest, host) = offering(before, before);
        let options = HypervisorOptions::new().with_wide_grants(true);
        let hypervisor = Hypervisor::open_with(&guest, &options).unwrap();
        let store = Store::open(&hypervisor).unwrap();
        let mut disk = Disk::open(&store, VBD, &BlkFrontOptions::new()).unwrap();
        let mut queue = disk.take_queue(0).unwrap();
        read_signalled(&guest, &mut queue, 3);
        host.set_resumes(true);
        host.set_fifo(after);
        host.set_wide_grants(after);
        assert_eq!(hypervisor.suspend(), Ok(true));
        store.resume().unwrap();
        // The table of grants was laid out for version 1.
        assert_eq!((hypervisor.has_fifo_events(), hypervisor.has_wide_grants()), (after, before && after));
        (0..4).for_each(|_| assert!(queue.complete().unwrap().is_none()));
        read_signalled(&guest, &mut queue, 3);
        assert_eq!((host.refused(), hypervisor.lost_pages()), (0, 0));
    }
}

/// Notes its number in the order in which tasks are woken.
struct Noted(u32, std::sync::Arc<std::sync::Mutex<Vec<u32>>>);

impl std::task::Wake for Noted {
    fn wake(self: std::sync::Arc<Self>) {
        self.1.lock().unwrap().push(self.0);
    }
}

/// Four event channels, of which those with odd numbers interrupt the second processor, and what wakes their tasks.
fn ports(
    hypervisor: &PageArc<Guest, Hypervisor<Guest>>,
) -> (Vec<Port<Guest>>, impl Fn() -> Vec<u32> + use<>) {
    let woken = std::sync::Arc::new(std::sync::Mutex::new(vec![]));
    let ports: Vec<_> = (0..4)
        .map(|index| {
            let port = Port::new(hypervisor, 0).unwrap();
            port.bind_to(ProcessorId(index & 1));
            port.register(&std::sync::Arc::new(Noted(index, woken.clone())).into());
            assert!(!port.arm());
            port
        })
        .collect();
    (ports, move || std::mem::take(&mut *woken.lock().unwrap()))
}

#[test]
fn events_that_wait_wake_every_task_once_and_from_queues_in_their_order() {
    for has_fifo in [false, true] {
        let guest = Guest::with(2, true);
        let host = XenHost::new(&guest);
        host.set_fifo(has_fifo);
        for _ in 0..2 {
            let hypervisor = Hypervisor::open(&guest).unwrap();
            let (ports, woken) = ports(&hypervisor);
            let raise = |indices: &[usize]| {
                host.hold_interrupts(true);
                indices.iter().for_each(|index| host.raise(ports[*index].number()));
                assert!(woken().is_empty());
                host.hold_interrupts(false);
                woken()
            };
            for _ in 0..3 {
                let order = if has_fifo { [2, 0, 3, 1] } else { [0, 1, 2, 3] };
                assert_eq!(raise(&[3, 2, 1, 0, 2, 3]), order);
                assert!(raise(&[3, 2, 1, 0]).is_empty(), "each is masked");
                assert!(ports.iter().all(Port::arm), "and has an event");
                assert_eq!(raise(&[1]), [1]);
                assert!(!ports[1].arm());
                assert!(ports.iter().all(|port| !port.arm()));
            }
            // What waits when everything is dropped does not keep the next user's events away.
            host.hold_interrupts(true);
            (0..4).for_each(|index| host.raise(ports[index].number()));
            drop((ports, hypervisor));
            host.hold_interrupts(false);
            assert_eq!((woken(), guest.pages(), guest.bound_handlers()), (vec![], 0, 0));
        }
    }
}

#[test]
fn what_the_hypervisor_refuses_is_done_without() {
    // The second processor has no queues: its events go to the first one.
    let guest = Guest::with(2, true);
    let host = XenHost::new(&guest);
    host.set_fifo(true);
    host.faults(|faults| faults.refuses_queues_of = Some(1));
    let hypervisor = Hypervisor::open(&guest).unwrap();
    assert!(hypervisor.has_fifo_events() && hypervisor.has_interrupts());
    let (ports, woken) = ports(&hypervisor);
    ports.iter().for_each(|port| host.raise(port.number()));
    assert_eq!(woken(), [0, 1, 2, 3]);
    assert!(XenTimer::open(&hypervisor, ProcessorId(1)).is_none());
    drop((ports, hypervisor));

    // No queues at all, or no words: the tables, or polling.
    for (refuses_first, refuses_words) in [(true, false), (false, true)] {
        let (guest, host) = offering(true, false);
        host.faults(|faults| {
            faults.refuses_queues_of = refuses_first.then_some(0);
            faults.refuses_words = refuses_words;
        });
        let hypervisor = Hypervisor::open(&guest).unwrap();
        assert_eq!(hypervisor.has_fifo_events(), refuses_words);
        assert_eq!(hypervisor.has_interrupts(), refuses_first);
    }

    // A hypervisor whose events cannot be tried out.
    for has_fifo in [false, true] {
        let (guest, host) = offering(has_fifo, false);
        host.faults(|faults| faults.lacks_own_events = true);
        let store = store(&guest);
        assert_eq!(store.hypervisor().has_fifo_events(), has_fifo);
        let mut disk = Disk::open(&store, VBD, &BlkFrontOptions::new()).unwrap();
        read_signalled(&guest, &mut disk.take_queue(0).unwrap(), 2);
    }

    // Version 2 without its status.
    let (guest, host) = offering(false, true);
    host.faults(|faults| faults.refuses_status = true);
    let options = HypervisorOptions::new().with_wide_grants(true);
    let hypervisor = Hypervisor::open_with(&guest, &options).unwrap();
    assert!(!hypervisor.has_wide_grants());
    let store = Store::open(&hypervisor).unwrap();
    let mut disk = Disk::open(&store, VBD, &BlkFrontOptions::new()).unwrap();
    read_signalled(&guest, &mut disk.take_queue(0).unwrap(), 2);
    assert_eq!(host.refused(), 0);
}

#[test]
fn the_shared_frames_are_divided_whatever_their_number() {
    for (frames, is_wide, has_fifo, grants) in [
        (2, false, false, 504),
        (2, true, false, 504),
        (3, false, false, 2 * 512 - 8),
        (3, true, false, 248),
        (4, false, false, 2 * 512 - 8),
        (7, false, true, 4 * 512 - 8),
        (65, false, false, 64 * 512 - 8),
        (65, true, false, 32 * 256 - 8),
        (66, true, false, 32 * 256 - 8),
        (67, false, true, 64 * 512 - 8),
        (67, true, true, 32 * 256 - 8),
        (75, true, true, 64 * 256 - 8),
        (130, false, false, 64 * 512 - 8),
        (131, false, true, 64 * 512 - 8),
    ] {
        let (guest, _host) = offering(true, true);
        guest.set_xen_frames(frames);
        let options = HypervisorOptions::new().with_wide_grants(is_wide);
        // Whatever was used before, the queues are where they were.
        for is_wide in [is_wide, false, true, is_wide] {
            let options = options.with_wide_grants(is_wide);
            let hypervisor = Hypervisor::open_with(&guest, &options).unwrap();
            assert_eq!(
                (hypervisor.has_fifo_events(), hypervisor.has_interrupts()),
                (has_fifo, true),
                "{frames}"
            );
        }
        let hypervisor = Hypervisor::open_with(&guest, &options).unwrap();
        assert_eq!(hypervisor.grants_of_a_device(), grants / 8, "{frames}");
    }
}

#[test]
fn the_version_of_grants_stays_while_a_page_is_lost() {
    for first in [true, false] {
        let (guest, host) = offering(false, true);
        let options = |is_wide| HypervisorOptions::new().with_wide_grants(is_wide);
        let hypervisor = Hypervisor::open_with(&guest, &options(first)).unwrap();
        let range = GrantRange::new(&hypervisor, 0, 1).unwrap();
        // SAFETY: the model accesses no page that no device was told of.
        unsafe { range.grant(0, paravirt_platform::BusAddr(0), paravirt_xen::Access::Write) };
        host.keep_mapped(range.reference(0));
        drop((range, hypervisor));
        let hypervisor = Hypervisor::open_with(&guest, &options(!first)).unwrap();
        assert_eq!(hypervisor.has_wide_grants(), first);
        let other = GrantRange::new(&hypervisor, 0, 1).unwrap();
        assert_eq!(other.reference(0), 9, "the page is mapped still");
    }
}

#[test]
fn a_region_with_a_page_that_is_mapped_still_is_neither_granted_anew_nor_freed() {
    let (guest, host) = offering(false, false);
    let hypervisor = Hypervisor::open(&guest).unwrap();
    let before = guest.pages();
    for is_kept in [false, true] {
        let mut region = GrantedRegion::alloc(&hypervisor, 0, 8192, paravirt_xen::Access::Write).unwrap();
        if is_kept {
            host.keep_mapped(region.reference(1));
        }
        assert_eq!(region.restart(0), if is_kept { Err(Fault::Timeout) } else { Ok(()) });
        drop(region);
        let lost = if is_kept { 2 } else { 0 };
        assert_eq!((hypervisor.lost_pages(), guest.pages() - before), (lost, lost));
    }
}

#[test]
fn where_events_go_to_the_memory_of_another_kernel_everything_is_polled() {
    let (guest, host) = offering(true, false);
    drop(Hypervisor::open(&guest).unwrap());
    // Without the option, the domain is left with an interface that nobody looks at.
    let options = HypervisorOptions::new().with_fifo_events(false);
    let hypervisor = Hypervisor::open_with(&guest, &options).unwrap();
    assert!(!hypervisor.has_interrupts() && !hypervisor.has_fifo_events());
    let store = Store::open(&hypervisor).unwrap();
    let mut disk = Disk::open(&store, VBD, &BlkFrontOptions::new()).unwrap();
    let mut queue = disk.take_queue(0).unwrap();
    queue.submit(read(&guest, 1, 0, 4096)).unwrap();
    queue.kick();
    assert!(done(&mut queue).result.is_ok());
    assert_eq!(queue.arm(), Arm::Unsignalled);
    drop((queue, disk, store, hypervisor));
    let hypervisor = Hypervisor::open(&guest).unwrap();
    assert!(hypervisor.has_interrupts() && hypervisor.has_fifo_events());
    assert_eq!(host.refused(), 0);
}

#[test]
fn a_page_beyond_16_tib_is_granted_by_version_2_alone() {
    use paravirt_platform::BusAddr;
    use paravirt_xen::Access::Write;
    for is_wide in [false, true] {
        let (guest, host) = offering(false, true);
        let options = HypervisorOptions::new().with_wide_grants(is_wide);
        let hypervisor = Hypervisor::open_with(&guest, &options).unwrap();
        let before = host.grants_in_force();
        let range = GrantRange::new(&hypervisor, 0, 1).unwrap();
        // SAFETY: the model accesses no page that no device was told of.
        unsafe { range.grant(0, BusAddr(1 << 44), Write) };
        assert_eq!(host.grants_in_force() - before, usize::from(is_wide));
        host.keep_mapped(range.reference(0));
        if is_wide {
            assert!(!range.revoke(0), "it is mapped");
            assert_eq!(host.grants_in_force(), before, "nothing more can be mapped");
        }
        drop(range);
        let other = GrantRange::new(&hypervisor, 0, 1).unwrap();
        assert_eq!(other.reference(0), 9, "an entry that is mapped is not used again");
    }
}
