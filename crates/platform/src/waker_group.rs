use crate::{AllocError, PageArc, PageTable, Platform, WakerCell};
use core::{
    mem::ManuallyDrop,
    ptr::NonNull,
    sync::atomic::{AtomicUsize, Ordering},
    task::{RawWaker, RawWakerVTable, Waker},
};

struct Inner<P: Platform> {
    cells: PageTable<P, WakerCell>,
    /// Cells behind this one have never been registered in.
    used: AtomicUsize,
}

/// Several tasks that one event wakes: what shares an interrupt. A handle: clones are the same group.
pub struct WakerGroup<P: Platform>(PageArc<P, Inner<P>>);

impl<P: Platform> Clone for WakerGroup<P> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<P: Platform> WakerGroup<P> {
    /// A group of `len` cells.
    ///
    /// # Errors
    ///
    /// [`AllocError`] where the platform has no room for it.
    pub fn new(platform: &P, len: usize) -> Result<Self, AllocError> {
        let cells = PageTable::new(platform, len, |_| WakerCell::new())?;
        PageArc::new(platform, Inner { cells, used: AtomicUsize::new(0) }).map(Self)
    }

    /// Registers a task in cell `index`, in place of the one before; nothing happens where there is no such cell.
    pub fn register(&self, index: usize, waker: &Waker) {
        if let Some(cell) = self.0.cells.get(index) {
            self.0.used.fetch_max(index.saturating_add(1), Ordering::Release);
            cell.register(waker);
        }
    }

    /// Wakes the task in cell `index`.
    pub fn wake(&self, index: usize) {
        self.0.cells.get(index).into_iter().for_each(WakerCell::wake);
    }

    /// Wakes all of them. Callable from an interrupt: it takes no lock.
    pub fn wake_all(&self) {
        let used = self.0.used.load(Ordering::Acquire);
        self.0.cells.iter().take(used).for_each(WakerCell::wake);
    }

    /// A waker that wakes all of them.
    pub fn waker(&self) -> Waker {
        // SAFETY: the table upholds the contract of `RawWaker`: each waker holds one reference.
        unsafe { Waker::from_raw(raw(self.0.clone())) }
    }
}

/// The vtable's functions, for groups of a platform.
struct Table<P>(core::marker::PhantomData<P>);

impl<P: Platform> Table<P> {
    const TABLE: RawWakerVTable = RawWakerVTable::new(clone::<P>, wake::<P>, wake_by_ref::<P>, release::<P>);
}

fn raw<P: Platform>(inner: PageArc<P, Inner<P>>) -> RawWaker {
    RawWaker::new(inner.into_raw().as_ptr(), &Table::<P>::TABLE)
}

/// # Safety
///
/// `data` is what `raw` made, of a waker that is alive.
unsafe fn group<P: Platform>(data: *const ()) -> ManuallyDrop<WakerGroup<P>> {
    // SAFETY: passed on from the caller; it is not dropped, so that the reference stays the waker's.
    ManuallyDrop::new(WakerGroup(unsafe { PageArc::from_raw(NonNull::new_unchecked(data.cast_mut())) }))
}

unsafe fn clone<P: Platform>(data: *const ()) -> RawWaker {
    // SAFETY: passed on from the caller.
    raw(unsafe { group::<P>(data) }.0.clone())
}

unsafe fn wake<P: Platform>(data: *const ()) {
    // SAFETY: passed on from the caller, who gives the waker up.
    ManuallyDrop::into_inner(unsafe { group::<P>(data) }).wake_all();
}

unsafe fn wake_by_ref<P: Platform>(data: *const ()) {
    // SAFETY: passed on from the caller.
    unsafe { group::<P>(data) }.wake_all();
}

unsafe fn release<P: Platform>(data: *const ()) {
    // SAFETY: passed on from the caller, who gives the waker up.
    drop(ManuallyDrop::into_inner(unsafe { group::<P>(data) }));
}
