//! The interrupts of a device: messages, one or several, or the line.

use super::{Inner, VirtioDevice};
use crate::transport::{InterruptAck, InterruptStatus, Transport};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, Ordering};
use paravirt_device::Signalling;
use paravirt_platform::{Handled, InterruptCell, PageTable, Platform, ProcessorId, RawHandler};

/// The state that interrupt handlers access: a separate allocation that neither moves nor is freed until every handler has been
/// unbound.
pub(super) struct InterruptState<P: Platform> {
    pub cells: PageTable<P, InterruptCell>,
    pub config_cell: InterruptCell,
    pub config_changed: AtomicBool,
    pub ack: InterruptAck,
}

impl<P: Platform> InterruptState<P> {
    pub fn wake_all(&self) {
        self.cells.iter().for_each(InterruptCell::wake);
        self.config_changed.store(true, Ordering::Release);
        self.config_cell.wake();
    }

    /// # Safety
    ///
    /// `data` points to an `InterruptState` that is alive.
    unsafe fn on_any(data: NonNull<()>) -> Handled {
        // SAFETY: the caller's promise; everything in it is shared by atomics.
        unsafe { data.cast::<Self>().as_ref() }.wake_all();
        Handled::Yes
    }

    /// # Safety
    ///
    /// `data` points to an `InterruptState` that is alive, of a transport that is.
    unsafe fn on_line(data: NonNull<()>) -> Handled {
        // SAFETY: the caller's promise; everything in it is shared by atomics.
        let state = unsafe { data.cast::<Self>().as_ref() };
        // SAFETY: the transport is alive, by the caller's promise.
        let why = unsafe { state.ack.take() };
        if why.contains(InterruptStatus::QUEUE) {
            state.cells.iter().for_each(InterruptCell::wake);
        }
        if why.contains(InterruptStatus::CONFIG) {
            state.config_changed.store(true, Ordering::Release);
            state.config_cell.wake();
        }
        if why.is_empty() { Handled::No } else { Handled::Yes }
    }
}

impl<P: Platform> VirtioDevice<P> {
    pub(super) fn signalling(&self) -> Signalling {
        let inner = self.inner.lock();
        let signalled = self.signalled.load(Ordering::Relaxed);
        let mut messages = inner.queues.iter().flatten().map(|queue| queue.message);
        let is_shared = |message: Option<u16>| message.is_none() || message == inner.config_message;
        match messages.clone().any(|message| message.is_some()) {
            _ if signalled == 0 => Signalling::Polled,
            true if messages.any(is_shared) => Signalling::SharedMessages,
            true => Signalling::Messages,
            false => Signalling::Line,
        }
    }

    /// Binds interrupts: one message for each queue and one for the configuration, as far as the device and the platform have
    /// enough; otherwise one message for all of them; otherwise the interrupt line; otherwise none, and the driver has to poll.
    /// Takes one for each queue only if at least as many stay free for other devices.
    pub(super) fn bind(&self, inner: &mut Inner<P>, processor: &dyn Fn(usize) -> ProcessorId) {
        let Inner { transport, queues, config_message, vectors, is_kernels, .. } = inner;
        let platform = self.platform.interrupts();
        let owned = transport.requester().and_then(|from| Some((from, platform.own_entries(from)?)));
        *is_kernels = owned.is_some();
        let places = queues.iter().flatten().count();
        let state = self.interrupts.as_ptr();
        let entries = owned.map_or(u16::MAX, |(_, entries)| entries).min(transport.messages());
        let mut slots = vectors.iter_mut();
        let mut message = |transport: &mut Transport<P>, entry: u16, handler: RawHandler, processor| {
            let slot = slots.next()?;
            if let Some((from, _)) = owned {
                // SAFETY: as below.
                *slot = Some(unsafe { platform.bind_entry(from, entry, handler, processor) }.ok()?);
                return Some(entry);
            }
            // SAFETY: the handler's data is part of the interrupt state, which stays until `drop` has unbound the handler.
            let vector = unsafe { platform.bind(handler, processor) }.ok()?;
            match platform.message(vector, transport.requester()) {
                Some(message) => {
                    transport.set_message(entry, message);
                    *slot = Some(vector);
                    Some(entry)
                }
                None => {
                    platform.unbind(vector);
                    None
                }
            }
        };
        let is_plenty = places.saturating_add(1).saturating_mul(2) <= platform.free_vectors() as usize;
        if usize::from(entries) > places && (is_plenty || owned.is_some()) {
            // Also serves queues for which no further message is available.
            let handler = RawHandler::new(state, InterruptState::<P>::on_any);
            *config_message = message(transport, 0, handler, processor(0));
            for (place, queue) in queues.iter_mut().flatten().enumerate() {
                if let Some(cell) = self.interrupts.cells.get(place) {
                    let entry = (place as u16).wrapping_add(1);
                    let handler = InterruptCell::handler(NonNull::from(cell));
                    queue.message = message(transport, entry, handler, processor(place)).or(*config_message);
                }
            }
        } else if entries > 0 {
            let handler = RawHandler::new(state, InterruptState::<P>::on_any);
            let shared = message(transport, 0, handler, processor(0));
            *config_message = shared;
            queues.iter_mut().flatten().for_each(|queue| queue.message = shared);
        }
        let is_bound = config_message.is_some() || queues.iter().flatten().any(|q| q.message.is_some());
        if is_bound && (*is_kernels || transport.enable_messages()) {
            self.has_config_interrupts.store(config_message.is_some(), Ordering::Relaxed);
            return;
        }
        if is_bound {
            log::warn!(
                "virtio: the device does not enable message-signalled interrupts: trying its interrupt line"
            );
            *config_message = None;
            queues.iter_mut().flatten().for_each(|queue| queue.message = None);
            inner.vectors.iter_mut().filter_map(Option::take).for_each(|vector| platform.unbind(vector));
        }
        // A function whose messages the kernel has enabled does not raise its line: it is polled.
        if owned.is_none_or(|(_, entries)| entries == 0) {
            self.bind_line(inner, processor(0));
        }
    }

    /// Binds the interrupt line, if there is one, for every queue and the configuration.
    fn bind_line(&self, inner: &mut Inner<P>, processor: ProcessorId) {
        let Inner { transport, vectors, is_kernels, .. } = inner;
        let platform = self.platform.interrupts();
        let (Some(line), Some(slot)) = (transport.line(), vectors.first_mut()) else { return };
        if !*is_kernels {
            transport.disable_messages();
        }
        let handler = RawHandler::new(self.interrupts.as_ptr(), InterruptState::<P>::on_line);
        // SAFETY: the handler's data is the interrupt state, which, like the transport, stays until `drop` has unbound the handler.
        let Ok(vector) = (unsafe { platform.bind(handler, processor) }) else { return };
        match platform.route(line, vector) {
            Ok(()) => *slot = Some(vector),
            Err(_) => platform.unbind(vector),
        }
        self.has_config_interrupts.store(slot.is_some(), Ordering::Relaxed);
        inner.has_line = slot.is_some();
    }
}
