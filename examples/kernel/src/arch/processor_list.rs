//! The hardware's ids of all processors, which firmware reports.

use crate::smp::MAX_PROCESSORS;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

static ALL: [AtomicU64; MAX_PROCESSORS] = [const { AtomicU64::new(0) }; MAX_PROCESSORS];
/// How many there are; those beyond [`MAX_PROCESSORS`] are counted alone.
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Adds a processor with this id.
pub fn add(id: u64) {
    if let Some(slot) = ALL.get(COUNT.fetch_add(1, Ordering::Relaxed)) {
        slot.store(id, Ordering::Relaxed);
    }
}

/// Iterates over the ids of all processors.
pub fn all() -> impl Iterator<Item = u64> {
    ALL.iter().take(COUNT.load(Ordering::Relaxed)).map(|id| id.load(Ordering::Relaxed))
}

/// Returns the number of processors that are not in [`all`].
pub fn ignored() -> usize {
    COUNT.load(Ordering::Relaxed).saturating_sub(MAX_PROCESSORS)
}
