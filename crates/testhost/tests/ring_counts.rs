//! Limits of the cost of a VMBus ring: no allocation, and one signal per batch.

use paravirt_testhost::count::{self, Counting, counted};
use paravirt_vmbus_ring::{ArrayRing, GpaRange, Incoming, Outgoing};

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn a_batch_of_32_is_signalled_once_and_allocates_nothing() {
    let ring = Box::new(ArrayRing::<4096>::new());
    let (mut outgoing, mut incoming) = (Outgoing::new(&*ring).unwrap(), Incoming::new(&*ring).unwrap());
    let (payload, mut buffer) = ([7u8; 100], [0u8; 256]);
    let pages = [1u64, 2, 3];
    for round in 0..100u64 {
        let (signals, read) = counted(|| {
            for id in 0..16 {
                outgoing.in_band(id, true, &[&payload]).unwrap();
                let range = GpaRange { len: 9000, offset: 8, pages: pages.iter().copied() };
                outgoing.gpa_direct(id, [range].into_iter(), &[&payload]).unwrap();
            }
            let mut signals = u32::from(outgoing.publish());
            let mut read = 0;
            while let Some(packet) = incoming.next(&mut buffer).unwrap() {
                read += u32::from(packet.wants_completion);
            }
            signals += u32::from(incoming.release());
            (signals, read)
        });
        assert_eq!((signals, read, count::allocations()), (1, 32, 0), "round {round}");
    }
}
