//! Queues of several disks on one channel, each on a thread of its own.

use super::*;

/// Reads on `queue` until `count` reads have succeeded; aborted ones are repeated.
fn read_all(bench: &Bench, queue: &mut Queue, seed: u64, count: u64) {
    let (mut sent, mut done, mut aborted) = (0, 0, 0);
    let mut spare: Vec<Buffer> = (0..16).map(|_| bench.filled(512, 0)).collect();
    while done < count {
        while sent < count {
            let Some(into) = spare.pop() else { break };
            match queue.submit(read(sent, (seed + sent) % 64, into)) {
                Ok(()) => sent += 1,
                Err(Refused { reason, request: Request { op: Op::Read { into, .. }, .. }, .. }) => {
                    assert!(matches!(reason, Rejected::Faulted(Fault::Reset) | Rejected::Full), "{reason}");
                    spare.push(into);
                    break;
                }
                Err(refused) => panic!("{refused}"),
            }
        }
        queue.kick();
        while let Some(completion) = queue.complete().expect("no fault") {
            let buffer = completion.buffer.expect("the buffer");
            match completion.result {
                Ok(()) => {
                    assert_eq!(buffer.bytes()[0], ((seed + completion.tag) % 64) as u8);
                    done += 1;
                }
                Err(IoError::Aborted) => {
                    aborted += 1;
                    done += 1;
                }
                Err(error) => panic!("{error}"),
            }
            spare.push(buffer);
        }
        std::thread::yield_now();
    }
    assert!(aborted < count, "all of them were aborted");
    assert_eq!(spare.len(), 16, "a buffer was lost");
}

/// Three disks on one port are read concurrently while the controller is reset.
#[test]
fn queues_on_threads_share_a_port_and_survive_its_recovery() {
    let bench = Bench::with(INTERFACE, NOWHERE, |storage| {
        for lun in 0..4 {
            storage.insert(lun, tuned(disk(512, 1 << 20), |drive| drive.name = [lun + 1; 16]));
        }
    });
    let mut controller = bench.open(&ONE);
    let mut disks = [(); 4].map(|()| added(&mut controller));
    let [a, b, c, d] = disks.each_mut().map(|disk| disk.take_queue(0).expect("a queue"));
    let left = AtomicUsize::new(3);
    std::thread::scope(|scope| {
        for (mut queue, seed) in [(a, 0), (b, 20), (c, 40)] {
            let (bench, left) = (&bench, &left);
            scope.spawn(move || {
                read_all(bench, &mut queue, seed, 3000);
                left.fetch_sub(1, Ordering::SeqCst);
            });
        }
        let (mut queue, left) = (d, &left);
        scope.spawn(move || {
            while left.load(Ordering::SeqCst) > 0 {
                queue.reset().expect("it resets");
                std::thread::sleep(Duration::from_millis(2));
            }
        });
    });
    drop((disks, controller));
    assert_eq!(bench.host.gpadls(), (0, 0));
    bench.is_clean();
}
