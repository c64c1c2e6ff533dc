//! What a read of 4 KiB costs in a storage driver: what the programs for StorVSP and for VMware's adapter have in common.

use paravirt_device::{BlockQueue, Op, Request};
use paravirt_platform::DmaSlice;
use paravirt_testhost::Guest;
use paravirt_testhost::count::{self, counted};

pub type Buffer = DmaSlice<Guest>;

/// Submits a read into each of `buffers`, and takes them back.
#[inline(always)]
pub fn batch<Q: BlockQueue<Buffer = Buffer> + ?Sized>(queue: &mut Q, buffers: &mut Vec<Buffer>) {
    let batch = buffers.len();
    let mut lba = 0;
    while let Some(into) = buffers.pop() {
        let request = Request::new(lba, Op::Read { lba, into });
        queue.submit(request).map_err(|refused| refused.reason).expect("room");
        lba += 8;
    }
    queue.kick();
    while buffers.len() < batch {
        if let Some(done) = queue.complete().expect("no fault") {
            done.result.expect("read");
            buffers.push(done.buffer.expect("its buffer"));
        }
    }
}

/// The batch and the rounds that the command line says.
pub fn words() -> (u64, u64) {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok());
    match (number(1), number(2)) {
        (Some(batch), Some(rounds)) => (batch, rounds),
        _ => {
            eprintln!("read BATCH ROUNDS");
            std::process::exit(2);
        }
    }
}

/// Runs `driver_side` `rounds` times with `batch` buffers, and prints what it cost beside instructions. `kicks` counts those of the host.
pub fn run<Q>(
    guest: &Guest,
    (batch, rounds): (u64, u64),
    queue: &mut Q,
    kicks: impl Fn() -> u64,
    driver_side: impl Fn(&mut Q, &mut Vec<Buffer>),
) {
    let mut buffers: Vec<Buffer> =
        (0..batch).map(|_| DmaSlice::alloc(guest, 4096).expect("memory")).collect();
    let before = kicks();
    for _ in 0..rounds {
        counted(|| driver_side(queue, &mut buffers));
    }
    assert_eq!(buffers.len() as u64, batch);
    let kicks = kicks() - before;
    println!("signals={} allocations={}", kicks as f64 / rounds as f64, count::allocations());
}
