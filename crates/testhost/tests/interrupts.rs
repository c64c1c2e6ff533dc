//! How a virtio device signals: messages where they stay on, else the line.

use paravirt_device::{BlockDevice, Notify};
use paravirt_platform::{DmaSlice, InterruptLine, Polarity, Trigger};
use paravirt_testhost::{BlkHost, Guest, Ring};
use paravirt_virtio::OpenOptions;
use paravirt_virtio::blk::VirtioBlk;
use paravirt_virtio::transport::InterruptStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};

const LINE: InterruptLine = InterruptLine { number: 5, trigger: Trigger::Level, polarity: Polarity::Low };

struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

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
    let count = Arc::new(Count(AtomicUsize::new(0)));
    queue.register(&Waker::from(count.clone()));
    let _ = queue.arm();
    host.device().raise_line(&guest, InterruptStatus::QUEUE);
    assert_eq!(host.device().registers().queue_messages[0].is_some(), !ignores_messages);
    let bound = guest.bound_handlers();
    drop((queue, disk));
    assert_eq!(guest.bound_handlers(), 0, "a handler stayed bound");
    (count.0.load(Ordering::SeqCst), bound)
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
