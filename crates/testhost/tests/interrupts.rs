//! How a virtio device signals: messages where they stay on, else the line.

use paravirt_device::{Arm, BlockDevice, Notify, Signalling};
use paravirt_platform::{DmaSlice, InterruptLine, Polarity, Requester, Trigger};
use paravirt_testhost::{BlkHost, Guest, Ring, Wakes};
use paravirt_virtio::OpenOptions;
use paravirt_virtio::blk::VirtioBlk;
use paravirt_virtio::blk::config::BlkFeatures;
use paravirt_virtio::features::Features;
use paravirt_virtio::transport::InterruptStatus;

const LINE: InterruptLine = InterruptLine { number: 5, trigger: Trigger::Level, polarity: Polarity::Low };

/// Opens a disk whose device has four messages, of which `ignores_messages` says whether they can be switched on, and a line;
/// raises the line once. Returns how often the queue's waker was called, and how many handlers are bound.
fn opened(ignores_messages: bool) -> (usize, usize) {
    let guest = Guest::with(1, true);
    let host = BlkHost::new(&guest, Ring::Split, 64);
    {
        let mut registers = host.device().registers();
        (registers.messages, registers.line) = (4, Some(LINE));
        registers.ignores_messages = ignores_messages;
    }
    let mut disk = VirtioBlk::<_, DmaSlice<Guest>>::open(&guest, host.transport(), &OpenOptions::default())
        .expect("a disk");
    let mut queue = disk.take_queue(0).expect("a queue");
    let (count, waker) = Wakes::new();
    queue.register(&waker);
    let _ = queue.arm();
    host.device().raise_line(&guest, InterruptStatus::QUEUE);
    assert_eq!(host.device().registers().queue_messages[0].is_some(), !ignores_messages);
    let bound = guest.bound_handlers();
    drop((queue, disk));
    assert_eq!(guest.bound_handlers(), 0, "a handler stayed bound");
    (count.get(), bound)
}

#[test]
fn messages_that_stay_on_leave_the_line_alone() {
    // One for the configuration, one for the queue.
    assert_eq!(opened(false), (0, 2));
}

/// crosvm and Alioth take the message control register in its own width only, and other monitors may not take it at all.
#[test]
fn messages_that_do_not_stay_on_are_given_up_for_the_line() {
    assert_eq!(opened(true), (1, 1));
}

/// What `arm` says, how the disk says it signals, and whether its waker was called.
fn signalled(has_interrupts: bool, messages: u16, line: Option<InterruptLine>) -> (Arm, Signalling) {
    let guest = Guest::with(1, has_interrupts);
    let host = BlkHost::new(&guest, Ring::Split, 64);
    {
        let mut registers = host.device().registers();
        (registers.messages, registers.line) = (messages, line);
    }
    let mut disk = VirtioBlk::<_, DmaSlice<Guest>>::open(&guest, host.transport(), &OpenOptions::default())
        .expect("a disk");
    let mut queue = disk.take_queue(0).expect("a queue");
    (queue.arm(), disk.info().connection.signalling)
}

/// A kernel that halts after `Armed` sleeps for good if no interrupt can come.
#[test]
fn arm_promises_a_wake_up_only_if_one_can_come() {
    assert_eq!(signalled(true, 4, Some(LINE)), (Arm::Armed, Signalling::Messages));
    assert_eq!(signalled(true, 1, Some(LINE)), (Arm::Armed, Signalling::SharedMessages));
    assert_eq!(signalled(true, 0, Some(LINE)), (Arm::Armed, Signalling::Line));
    assert_eq!(signalled(true, 0, None), (Arm::Unsignalled, Signalling::Polled));
    assert_eq!(signalled(false, 4, Some(LINE)), (Arm::Unsignalled, Signalling::Polled));
}

/// Fourteen disks with sixteen queues each used up the vectors of the first ten, and left the others without any.
#[test]
fn every_device_has_an_interrupt_before_queues_have_their_own() {
    let guest = Guest::with(1, true);
    guest.limit_vectors(40);
    let mut kinds = vec![];
    let mut kept = vec![];
    for _ in 0..14 {
        let features = (BlkFeatures::all() - BlkFeatures::RO).bits() | Features::VERSION_1.bits();
        let host = BlkHost::with(&guest, Ring::Split, 64, features, &[16; 16]);
        {
            let mut registers = host.device().registers();
            (registers.messages, registers.line) = (17, None);
        }
        let options = OpenOptions::default().with_queues(16);
        let mut disk =
            VirtioBlk::<_, DmaSlice<Guest>>::open(&guest, host.transport(), &options).expect("a disk");
        kinds.push(disk.info().connection.signalling);
        for index in 0..16 {
            assert_eq!(disk.take_queue(index).expect("a queue").arm(), Arm::Armed);
        }
        kept.push((host, disk));
    }
    assert_eq!(kinds[0], Signalling::Messages);
    assert_eq!(kinds[1..], [Signalling::SharedMessages; 13]);
}

/// A kernel with a PCI layer of its own has programmed and enabled the messages before it opens the device.
#[test]
fn messages_that_the_kernel_programs_are_left_to_it() {
    const FROM: Requester = Requester { segment: 0, id: 0x18 };
    let guest = Guest::with(1, true);
    guest.own_entries(2);
    let host = BlkHost::new(&guest, Ring::Split, 64);
    {
        let mut registers = host.device().registers();
        (registers.messages, registers.requester, registers.line) = (4, Some(FROM), Some(LINE));
    }
    let mut disk = VirtioBlk::<_, DmaSlice<Guest>>::open(&guest, host.transport(), &OpenOptions::default())
        .expect("a disk");
    assert_eq!(disk.info().connection.signalling, Signalling::Messages);
    let mut queue = disk.take_queue(0).expect("a queue");
    let (count, waker) = Wakes::new();
    queue.register(&waker);
    assert_eq!(queue.arm(), Arm::Armed);
    // The configuration has entry 0, the queue the next one.
    assert_eq!(host.device().registers().queue_messages[0], Some(1));
    guest.raise_entry(FROM, 1);
    assert_eq!(count.get(), 1);
    drop((queue, disk));
    assert_eq!(guest.bound_handlers(), 0, "a handler stayed bound");
    assert_eq!(host.device().registers().message_writes, 0, "the driver wrote what the kernel owns");
}

/// The line of a device whose messages are on raises nothing: a kernel that cannot bind them has to poll.
#[test]
fn a_device_whose_messages_the_kernel_cannot_bind_is_polled() {
    const FROM: Requester = Requester { segment: 0, id: 0x18 };
    let guest = Guest::with(1, true);
    guest.own_entries(2);
    guest.limit_vectors(0);
    let host = BlkHost::new(&guest, Ring::Split, 64);
    {
        let mut registers = host.device().registers();
        (registers.messages, registers.requester, registers.line) = (4, Some(FROM), Some(LINE));
    }
    let mut disk = VirtioBlk::<_, DmaSlice<Guest>>::open(&guest, host.transport(), &OpenOptions::default())
        .expect("a disk");
    assert_eq!(disk.info().connection.signalling, Signalling::Polled);
    assert_eq!(disk.take_queue(0).expect("a queue").arm(), Arm::Unsignalled);
    assert_eq!(guest.bound_handlers(), 0);
    assert_eq!(host.device().registers().message_writes, 0, "the driver wrote what the kernel owns");
}
