//! The two interfaces of event channels, and the two versions of grants.

use super::*;
use paravirt_xen::{GrantRange, HypervisorOptions};

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
    for (before, after) in [(true, false), (false, true), (true, true)] {
        let (guest, host) = offering(before, true);
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
        assert_eq!((hypervisor.has_fifo_events(), hypervisor.has_wide_grants()), (after, after));
        (0..4).for_each(|_| assert!(queue.complete().unwrap().is_none()));
        read_signalled(&guest, &mut queue, 3);
        assert_eq!((host.refused(), hypervisor.lost_pages()), (0, 0));
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
