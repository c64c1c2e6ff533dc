//! Handles: devices and queues in pages of their own, and what wakes the tasks that wait for them.

use crate::platform::Kernel;
use crate::{PARAVIRT_NEVER, paravirt_status};
use core::cell::UnsafeCell;
use core::ffi::c_void;
use core::mem::ManuallyDrop;
use core::ptr::NonNull;
use core::task::{RawWaker, RawWakerVTable, Waker};
use paravirt_device::{Arm, Notify};
use paravirt_platform::{Instant, PageArc};

/// A type of handles of the C interface, for a value in pages of its own.
pub(crate) trait Handle: Sized {
    /// What the handle is of.
    type Value: 'static;

    /// Moves `value` to pages of its own; null if there is no memory.
    fn create(kernel: Kernel, value: Self::Value) -> *mut Self {
        match PageArc::new(&kernel, UnsafeCell::new(value)) {
            Ok(owner) => owner.into_raw().as_ptr().cast(),
            Err(_) => core::ptr::null_mut(),
        }
    }

    /// Returns the value.
    ///
    /// # Safety
    ///
    /// `handle` came from `create`, is not closed and not in use elsewhere.
    unsafe fn get<'a>(handle: *mut Self) -> &'a mut Self::Value {
        // SAFETY: by the contract of this function.
        unsafe { &mut *Self::at(handle) }
    }

    /// Returns the value, which other processors may use at the same time by this function alone.
    ///
    /// # Safety
    ///
    /// `handle` came from `create`, is not closed and not in use by [`get`](Self::get).
    unsafe fn share<'a>(handle: *mut Self) -> &'a Self::Value
    where
        Self::Value: Sync,
    {
        // SAFETY: by the contract of this function.
        unsafe { &*Self::at(handle) }
    }

    /// Returns what finds the value's [`Notify`].
    ///
    /// # Safety
    ///
    /// As for [`at`](Self::at).
    unsafe fn notify<T: 'static>(handle: *mut Self) -> *mut paravirt_notify
    where
        Self: Handle<Value = Waited<T>>,
    {
        // SAFETY: by the contract of this function.
        unsafe { Self::at(handle) }.cast()
    }

    /// Returns the address of the value, which stays that of the whole value whoever uses it in between.
    ///
    /// # Safety
    ///
    /// `handle` came from `create`, and is not closed.
    unsafe fn at(handle: *mut Self) -> *mut Self::Value {
        // SAFETY: by the contract of this function; the reference that is made is not dropped.
        unsafe {
            let raw = NonNull::new_unchecked(handle.cast::<()>());
            ManuallyDrop::new(PageArc::<Kernel, UnsafeCell<Self::Value>>::from_raw(raw)).get()
        }
    }

    /// Drops the value. Null is permitted.
    ///
    /// # Safety
    ///
    /// As for [`get`](Self::get); the handle is not used afterwards.
    unsafe fn close(handle: *mut Self) {
        if let Some(raw) = NonNull::new(handle.cast::<()>()) {
            // SAFETY: by the contract of this function.
            drop(unsafe { PageArc::<Kernel, UnsafeCell<Self::Value>>::from_raw(raw) });
        }
    }
}

/// Says what a type of handles is of.
macro_rules! handle {
    ($name:ident: $value:ty) => {
        impl crate::handle::Handle for $name {
            type Value = $value;
        }
    };
}
pub(crate) use handle;

/// A value with what finds its [`Notify`], which is first.
#[repr(C)]
pub(crate) struct Waited<T> {
    notify: unsafe fn(*mut paravirt_notify) -> *mut dyn Notify,
    pub value: T,
}

impl<T: Notify + 'static> Waited<T> {
    pub fn new(value: T) -> Self {
        unsafe fn notify<T: Notify + 'static>(this: *mut paravirt_notify) -> *mut dyn Notify {
            // SAFETY: it is the address of a `Waited<T>`, in which this function is.
            unsafe { &raw mut (*this.cast::<Waited<T>>()).value }
        }
        Self { notify: notify::<T>, value }
    }
}

/// What can be waited for: a queue, or a device with queues of its own. It is a part of the handle that it came from, and valid as long.
#[derive(Debug)]
pub struct paravirt_notify {
    _private: (),
}

/// # Safety
///
/// `notify` came from [`Handle::notify`] of a value that is alive and not in use elsewhere.
unsafe fn find<'a>(notify: *mut paravirt_notify) -> &'a mut dyn Notify {
    // SAFETY: by the contract of this function; the function pointer is first, whatever the type of the value.
    unsafe {
        let find = *notify.cast::<unsafe fn(*mut paravirt_notify) -> *mut dyn Notify>();
        &mut *find(notify)
    }
}

/// What wakes a task of the kernel's. It stays valid as long as it is registered anywhere: until the device and every queue taken from it
/// are closed (of the services: until they are closed), or until another one was registered in its place and no interrupt handler of the
/// device is running.
#[repr(C)]
#[derive(Debug)]
pub struct paravirt_waker {
    /// Called with `context`, also in interrupt context.
    pub wake: Option<extern "C" fn(context: *mut c_void)>,
    /// The kernel's own.
    pub context: *mut c_void,
}

/// Makes a waker of the kernel's.
///
/// # Safety
///
/// The contract of [`paravirt_waker`].
pub(crate) unsafe fn waker(waker: *const paravirt_waker) -> Waker {
    const TABLE: RawWakerVTable = RawWakerVTable::new(|data| RawWaker::new(data, &TABLE), wake, wake, |_| ());
    unsafe fn wake(data: *const ()) {
        // SAFETY: by the contract it is valid while it is registered.
        let waker = unsafe { &*data.cast::<paravirt_waker>() };
        if let Some(wake) = waker.wake {
            wake(waker.context);
        }
    }
    // SAFETY: the functions do what they are to do: a clone is the same pointer, and nothing is owned.
    unsafe { Waker::from_raw(RawWaker::new(waker.cast(), &TABLE)) }
}

/// Whether a wake-up follows.
#[repr(C)]
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum paravirt_arm {
    /// The registered waker is called at the next event: the task may sleep.
    Armed,
    /// There is something to do now.
    Pending,
    /// The device raises no interrupt: the task has to poll.
    Unsignalled,
}

impl From<Arm> for paravirt_arm {
    fn from(arm: Arm) -> Self {
        match arm {
            Arm::Armed => Self::Armed,
            Arm::Pending => Self::Pending,
            Arm::Unsignalled => Self::Unsignalled,
        }
    }
}

/// Registers the waker of the task that waits, in place of the previous one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_register(notify: *mut paravirt_notify, waker: *const paravirt_waker) {
    // SAFETY: the contract of the crate.
    unsafe { find(notify).register(&self::waker(waker)) }
}

/// Asks for a wake-up at the next event. A task registers its waker, arms, and sleeps only if the result is `PARAVIRT_ARM_ARMED`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_arm_wakeup(notify: *mut paravirt_notify) -> paravirt_arm {
    // SAFETY: the contract of the crate.
    unsafe { find(notify) }.arm().into()
}

/// Asks for no wake-ups, as while polling.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_disarm(notify: *mut paravirt_notify) {
    // SAFETY: the contract of the crate.
    unsafe { find(notify) }.disarm();
}

/// Returns the time by which `paravirt_expire` is to be called; `PARAVIRT_NEVER` if there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_next_deadline(notify: *mut paravirt_notify) -> u64 {
    // SAFETY: the contract of the crate.
    match unsafe { find(notify) }.next_deadline() {
        Instant::NEVER => PARAVIRT_NEVER,
        deadline => deadline.as_nanos(),
    }
}

/// Begins the recovery of what has exceeded its deadline at the time `now`. May block, as a reset does.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_expire(notify: *mut paravirt_notify, now: u64) -> paravirt_status {
    // SAFETY: the contract of the crate.
    unsafe { find(notify) }.expire(Instant::from_nanos(now)).into()
}
