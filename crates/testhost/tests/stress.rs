//! Driver and device on separate threads, each of which sleeps when it is idle: after a lost kick or interrupt both would sleep
//! forever.

use paravirt_platform::{Direction, DmaSlice};
use paravirt_testhost::{Guest, PackedDevice, QueueState, SplitDevice};
use paravirt_virtio::queue::{AreaRange, Parts, QueueConfig, Ring as _, RingFormat, VirtQueue};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

/// Two million in a release build, which is how the test command runs it; fewer where debug assertions make it slow.
const REQUESTS: u64 = if cfg!(debug_assertions) { 200_000 } else { 2_000_000 };

/// A counting signal.
#[derive(Default)]
struct Signal {
    count: Mutex<u64>,
    changed: Condvar,
    raised: AtomicU64,
}

impl Signal {
    fn raise(&self) {
        *self.count.lock().expect("count") += 1;
        self.raised.fetch_add(1, Ordering::Relaxed);
        self.changed.notify_one();
    }

    /// Waits until the signal was raised more often than `seen`; panics after a timeout.
    fn wait(&self, seen: &mut u64, what: &str) {
        let count = self.count.lock().expect("count");
        let (count, late) = self
            .changed
            .wait_timeout_while(count, Duration::from_secs(20), |count| *count == *seen)
            .expect("count");
        assert!(!late.timed_out(), "{what} was lost");
        *seen = *count;
    }
}

/// A device of either queue format.
enum Device {
    Split(SplitDevice),
    Packed(PackedDevice),
}

impl Device {
    fn disable_notification(&mut self) {
        match self {
            Self::Split(device) => device.disable_notification(),
            Self::Packed(device) => device.disable_notification(),
        }
    }

    /// Serves one request; returns whether the driver wants an interrupt for it. `None` if there is no request.
    fn serve(&mut self) -> Option<bool> {
        match self {
            Self::Split(device) => {
                let chain = device.pop()?;
                device.push(chain.id, 0);
                Some(device.needs_notification())
            }
            Self::Packed(device) => {
                let chain = device.pop()?;
                device.push(chain.id, chain.entries, 0);
                Some(device.needs_notification())
            }
        }
    }

    fn enable_notification(&mut self) -> bool {
        match self {
            Self::Split(device) => device.enable_notification(),
            Self::Packed(device) => device.enable_notification(),
        }
    }
}

fn stress(packed: bool, event_idx: bool) {
    let guest = Guest::new();
    let mut config = QueueConfig::new(64);
    config.format = if packed { RingFormat::Packed } else { RingFormat::Split };
    (config.event_idx, config.indirect, config.area) = (event_idx, 4, 64);
    let mut queue = VirtQueue::<Guest, DmaSlice<Guest>, u64>::new(&guest, config).expect("a queue");
    let state = QueueState { addresses: queue.addresses(), generation: 1 };
    let (kick, interrupt, over) = (Signal::default(), Signal::default(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut device = match packed {
                false => Device::Split(SplitDevice::new(&guest, &state, event_idx)),
                true => Device::Packed(PackedDevice::new(&guest, &state, event_idx)),
            };
            let mut seen = 0;
            loop {
                device.disable_notification();
                while let Some(wants_interrupt) = device.serve() {
                    if wants_interrupt {
                        interrupt.raise();
                    }
                }
                if !device.enable_notification() {
                    kick.wait(&mut seen, "a kick");
                }
                if over.load(Ordering::SeqCst) {
                    return;
                }
            }
        });
        let (mut sent, mut done, mut seen) = (0u64, 0u64, 0);
        while done < REQUESTS {
            // Batches of one to seven.
            for _ in 0..(sent % 7 + 1).min(REQUESTS - sent) {
                let (header, status) = ([AreaRange::new(0, 16)], [AreaRange::new(32, 1)]);
                let parts = Parts::around(&header, &status);
                if queue.submit(parts, None, Direction::ToDevice, sent, |_, _| Ok(())).is_err() {
                    break;
                }
                sent += 1;
            }
            if queue.publish() {
                kick.raise();
            }
            let before = done;
            while let Some(used) = queue.pop().expect("no fault") {
                assert_eq!(used.extra, done, "out of order from a device that completes in order");
                done += 1;
            }
            if done == before && !queue.arm() {
                interrupt.wait(&mut seen, "an interrupt");
            }
        }
        over.store(true, Ordering::SeqCst);
        kick.raise();
    });
    assert_eq!(queue.in_flight(), 0);
    // Some signals were sent and some were suppressed on each side: both decisions were tested.
    let kicks = kick.raised.load(Ordering::Relaxed);
    assert!(kicks > 1 && kicks < REQUESTS, "{kicks} kicks for {REQUESTS} requests");
}

#[test]
fn no_kick_is_lost_in_flags_mode() {
    stress(false, false);
}

#[test]
fn no_kick_is_lost_with_event_idx_across_the_wrap() {
    // The 16-bit index wraps every 65,536 requests.
    stress(false, true);
}

#[test]
fn no_kick_is_lost_on_a_packed_queue_in_flags_mode() {
    stress(true, false);
}

#[test]
fn no_kick_is_lost_on_a_packed_queue_with_event_idx() {
    stress(true, true);
}
