use crate::{AllocError, PageArc, PageTable, Platform, WakerCell, waker::Cells};
use core::{
    fmt,
    mem::ManuallyDrop,
    ptr::NonNull,
    task::{RawWaker, RawWakerVTable, Waker},
};

type Inner<P> = Cells<PageTable<P, WakerCell>>;

/// Several tasks that one event wakes, such as those of an interrupt that is shared. A handle: clones are the same group.
pub struct WakerGroup<P: Platform>(PageArc<P, Inner<P>>);

impl<P: Platform> Clone for WakerGroup<P> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<P: Platform> WakerGroup<P> {
    /// Creates a group of `len` cells.
    ///
    /// # Errors
    ///
    /// [`AllocError`] if the platform is out of memory.
    pub fn new(platform: &P, len: usize) -> Result<Self, AllocError> {
        let cells = PageTable::new(platform, len, |_| WakerCell::new())?;
        PageArc::new(platform, Cells::new(cells)).map(Self)
    }

    /// Registers a task in cell `index`, replacing the previous one; does nothing if there is no such cell.
    ///
    /// The guarantees of [`WakerCell::register`] apply to [`wake`](Self::wake) and [`wake_all`](Self::wake_all).
    pub fn register(&self, index: usize, waker: &Waker) {
        self.0.register(index, waker);
    }

    /// Wakes the task in cell `index`. Callable from an interrupt handler: it takes no lock.
    pub fn wake(&self, index: usize) {
        self.0.wake(index);
    }

    /// Wakes the tasks in all cells. Callable from an interrupt handler: it takes no lock.
    pub fn wake_all(&self) {
        self.0.wake_all();
    }

    /// Returns a waker that wakes the tasks in all cells.
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
/// `data` came from `raw`, and its waker is alive.
unsafe fn group<P: Platform>(data: *const ()) -> ManuallyDrop<WakerGroup<P>> {
    // SAFETY: `data` is the pointer of a live waker of this vtable, as the `RawWakerVTable` contract says; the value is not
    // dropped, so that the waker keeps its reference.
    ManuallyDrop::new(WakerGroup(unsafe { PageArc::from_raw(NonNull::new_unchecked(data.cast_mut())) }))
}

unsafe fn clone<P: Platform>(data: *const ()) -> RawWaker {
    // SAFETY: `data` is the pointer of a live waker of this vtable, as the `RawWakerVTable` contract says.
    raw(unsafe { group::<P>(data) }.0.clone())
}

unsafe fn wake<P: Platform>(data: *const ()) {
    // SAFETY: `data` is the pointer of a waker of this vtable that the caller consumes, as the `RawWakerVTable` contract says.
    ManuallyDrop::into_inner(unsafe { group::<P>(data) }).wake_all();
}

unsafe fn wake_by_ref<P: Platform>(data: *const ()) {
    // SAFETY: `data` is the pointer of a live waker of this vtable, as the `RawWakerVTable` contract says.
    unsafe { group::<P>(data) }.wake_all();
}

unsafe fn release<P: Platform>(data: *const ()) {
    // SAFETY: `data` is the pointer of a waker of this vtable that the caller consumes, as the `RawWakerVTable` contract says.
    drop(ManuallyDrop::into_inner(unsafe { group::<P>(data) }));
}

impl<P: Platform> fmt::Debug for WakerGroup<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WakerGroup").finish_non_exhaustive()
    }
}
