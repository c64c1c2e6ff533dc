//! Runs fuzz targets on a stable toolchain: `replay ROUNDS [TARGET]`, with their corpus and reproducible mutations of it.

use paravirt_fuzz::{TARGETS, Target};
use std::fs;
use std::panic;
use std::path::Path;
use std::sync::Mutex;

/// A reproducible pseudo-random generator (xorshift).
struct Numbers(u64);

impl Numbers {
    /// Returns a number from 0 to `limit` (exclusive).
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit.max(1) as u64) as usize
    }
}

/// Changes, inserts, removes or repeats a few bytes.
fn mutate(bytes: &mut Vec<u8>, numbers: &mut Numbers) {
    /// Values that are often limits.
    const INTERESTING: [u8; 8] = [0, 1, 0x7f, 0x80, 0xff, 0x10, 0x40, 0xfe];
    for _ in 0..=numbers.below(4) {
        let at = numbers.below(bytes.len() + 1);
        match numbers.below(5) {
            0 if at < bytes.len() => bytes[at] = numbers.below(256) as u8,
            1 if at < bytes.len() => bytes[at] = INTERESTING[numbers.below(INTERESTING.len())],
            2 => bytes.insert(at, numbers.below(256) as u8),
            3 if at < bytes.len() => bytes.truncate(at.max(1)),
            4 if bytes.len() < 2048 => bytes.extend_from_within(at..),
            _ => {}
        }
    }
}

/// Returns whether the target is a whole driver.
fn is_driver(name: &str) -> bool {
    name.starts_with("virtio_") || name.ends_with("_driver")
}

/// The input that is being run.
static CURRENT: Mutex<(String, Vec<u8>)> = Mutex::new((String::new(), vec![]));

/// Has the input that causes a panic written to a file.
fn keep_failures() {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        before(info);
        if let Ok(current) = CURRENT.try_lock() {
            let path = std::env::temp_dir().join(format!("paravirt-fuzz-{}", current.0));
            if fs::write(&path, &current.1).is_ok() {
                eprintln!("the input is in {}", path.display());
            }
        }
    }));
}

/// Runs a target on an input.
fn run(name: &str, target: Target, input: &[u8]) {
    if let Ok(mut current) = CURRENT.lock() {
        *current = (name.into(), input.to_vec());
    }
    target(input);
}

fn main() {
    keep_failures();
    let words: Vec<String> = std::env::args().skip(1).collect();
    let rounds: usize = words.first().and_then(|word| word.parse().ok()).unwrap_or(10_000);
    for (name, target) in TARGETS.iter().filter(|(name, _)| words.get(1).is_none_or(|word| word == name)) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
        let files = fs::read_dir(&folder).into_iter().flatten().flatten();
        let mut corpus: Vec<Vec<u8>> = files.filter_map(|file| fs::read(file.path()).ok()).collect();
        corpus.sort();
        corpus.push(vec![]);
        // Long ones, as steps of a whole driver.
        let mut noise = Numbers(0x2545_f491_4f6c_dd1d);
        corpus.extend((0..32).map(|_| (0..400).map(|_| noise.below(256) as u8).collect()));
        corpus.iter().for_each(|input| run(name, *target, input));
        let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
        // A run of a whole driver takes as long as many of a parser.
        let rounds = if is_driver(name) { rounds.div_ceil(40) } else { rounds };
        for _ in 0..rounds {
            let mut input = corpus[numbers.below(corpus.len())].clone();
            mutate(&mut input, &mut numbers);
            run(name, *target, &input);
        }
        println!("fuzz {name}: passed {} corpus inputs and {rounds} mutations", corpus.len());
    }
}
