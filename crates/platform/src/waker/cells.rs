use super::{cell::WakerCell, sync::AtomicUsize};
use core::{ops::Deref, sync::atomic::Ordering, task::Waker};

/// The cells of a group, stored in `C`: pages of the platform, or the heap in the loom model.
pub struct Cells<C> {
    cells: C,
    /// No task was ever registered in this cell and those after it.
    used: AtomicUsize,
}

impl<C: Deref<Target = [WakerCell]>> Cells<C> {
    pub fn new(cells: C) -> Self {
        Self { cells, used: AtomicUsize::new(0) }
    }

    pub fn register(&self, index: usize, waker: &Waker) {
        if let Some(cell) = self.cells.get(index) {
            self.used.fetch_max(index.saturating_add(1), Ordering::AcqRel);
            cell.register(waker);
        }
    }

    pub fn wake(&self, index: usize) {
        self.cells.get(index).into_iter().for_each(WakerCell::wake);
    }

    pub fn wake_all(&self) {
        // A read-modify-write, so that it is ordered with that of `register`: either it sees the cell as used, or `register` sees
        // what was written before this wake. A load could see neither.
        let used = self.used.fetch_max(0, Ordering::AcqRel);
        self.cells.iter().take(used).for_each(WakerCell::wake);
    }
}
