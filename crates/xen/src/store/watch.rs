//! Watches: what the host tells of the changes of a node.

use super::{Kind, MAX_TEXT, Store, StoreError, path_of};
use crate::text::Text;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};
use paravirt_platform::{PageArc, Platform};
use spin::Mutex;

/// A watch, by its token.
#[derive(Default)]
pub(super) struct WatchSlot {
    pub is_used: AtomicBool,
    /// Whether it has fired since it was asked.
    pub has_fired: AtomicBool,
    path: Mutex<Text<MAX_TEXT>>,
}

/// Asks for events at the changes of a node, and below it, until it is dropped.
pub struct Watch<P: Platform> {
    store: PageArc<P, Store<P>>,
    token: usize,
}

impl<P: Platform> Watch<P> {
    /// Watches `path`. It has fired at first, as hosts do.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn new(store: &PageArc<P, Store<P>>, path: fmt::Arguments<'_>) -> Result<Self, StoreError> {
        let path = path_of(path)?;
        let token = store.watches.iter().position(|watch| !watch.is_used.swap(true, Ordering::AcqRel));
        let this = Self { store: store.clone(), token: token.ok_or(StoreError::Length)? };
        if let Some(slot) = this.slot() {
            *slot.path.lock() = path;
            slot.has_fired.store(true, Ordering::Release);
        }
        store.watch(this.token)?;
        Ok(this)
    }

    fn slot(&self) -> Option<&WatchSlot> {
        self.store.watches.get(self.token)
    }

    /// Returns whether the node has changed since the last call, or since the watch was set. Receives no events: see
    /// [`Store::poll`].
    pub fn take(&self) -> bool {
        self.slot().is_some_and(|slot| slot.has_fired.swap(false, Ordering::AcqRel))
    }
}

impl<P: Platform> Store<P> {
    /// Asks for the events of a watch.
    pub(super) fn watch(&self, token: usize) -> Result<(), StoreError> {
        match self.request_watch(Kind::Watch, token) {
            // A host that has not ended the last one with this number.
            Err(StoreError::Exists) => Ok(()),
            watched => watched,
        }
    }

    fn request_watch(&self, kind: Kind, token: usize) -> Result<(), StoreError> {
        let path = *self.watches.get(token).ok_or(StoreError::Missing)?.path.lock();
        let token = Text::<8>::format(format_args!("{token}")).ok_or(StoreError::Length)?;
        self.request(kind, 0, &[path.as_str().as_bytes(), &[0], token.as_str().as_bytes(), &[0]], |_| ())
    }
}

impl<P: Platform> Drop for Watch<P> {
    fn drop(&mut self) {
        // It fails if the node has gone.
        let _ = self.store.request_watch(Kind::Unwatch, self.token);
        self.slot().into_iter().for_each(|slot| slot.is_used.store(false, Ordering::Release));
    }
}

impl<P: Platform> fmt::Debug for Watch<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("token", &self.token).finish_non_exhaustive()
    }
}
