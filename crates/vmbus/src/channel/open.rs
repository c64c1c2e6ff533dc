//! Opening a channel, and closing it.

use super::{Channel, ChannelOptions};
use crate::connect::header;
use crate::gpadl::Gpadl;
use crate::rings::RingSlice;
use crate::shared::VmbusShared;
use crate::state::Awaited;
use crate::{ChannelError, Offer};
use hyperv_bindings::vmbus::{VmbusMessageType, VmbusOpenChannel};
use paravirt_device::Fault;
use paravirt_platform::{DmaRegion, PAGE_SIZE, PageArc, Platform};
use paravirt_vmbus_ring::{Incoming, Outgoing, reset};
use zerocopy::IntoBytes;

/// Takes a channel for a driver; dropped unless kept, it frees it again.
struct Claim<'a, P: Platform> {
    shared: &'a VmbusShared<P>,
    place: usize,
    generation: u32,
    is_kept: bool,
}

impl<P: Platform> Drop for Claim<'_, P> {
    fn drop(&mut self) {
        if !self.is_kept {
            let mut state = self.shared.state.lock();
            // On a later connection, the entry is of another channel.
            if self.shared.generation() == self.generation {
                if let Some(entry) = state.entry(self.place) {
                    entry.is_taken = false;
                }
            }
            drop(state);
            self.shared.release_if_gone(self.place);
        }
    }
}

impl<P: Platform> Channel<P> {
    pub(crate) fn open(
        shared: &PageArc<P, VmbusShared<P>>,
        offer: &Offer,
        options: &ChannelOptions,
    ) -> Result<Self, ChannelError> {
        if options.outgoing_pages < 2 || options.incoming_pages < 2 {
            return Err(ChannelError::Size);
        }
        if let Some(fault) = shared.fault() {
            return Err(fault.into());
        }
        let (place, epoch, generation, offer) = {
            let mut state = shared.state.lock();
            let place = state.place(offer.channel).ok_or(ChannelError::Gone)?;
            let entry = state.entry(place).ok_or(ChannelError::Gone)?;
            if entry.is_rescinded || entry.offer.instance != offer.instance {
                return Err(ChannelError::Gone);
            }
            if core::mem::replace(&mut entry.is_taken, true) {
                return Err(ChannelError::Busy);
            }
            (place, shared.epoch(place), shared.generation(), entry.offer)
        };
        shared.interrupts.has_driver(offer.channel);
        let mut claim = Claim { shared, place, generation, is_kept: false };
        let outgoing_len = options.outgoing_pages.checked_mul(PAGE_SIZE).ok_or(ChannelError::Size)?;
        let incoming_len = options.incoming_pages.checked_mul(PAGE_SIZE).ok_or(ChannelError::Size)?;
        let len = outgoing_len.checked_add(incoming_len).ok_or(ChannelError::Size)?;
        let region = DmaRegion::alloc(shared.platform(), len)?;
        // SAFETY: both slices and the GPADL that owns the region are fields of the channel, whose drop takes the GPADL only in
        // `shut`, after which no method accesses the rings.
        let slices = unsafe {
            RingSlice::new(region.shared(), 0, outgoing_len).zip(RingSlice::new(
                region.shared(),
                outgoing_len,
                incoming_len,
            ))
        };
        let (outgoing, incoming) = slices.ok_or(ChannelError::Size)?;
        reset(&outgoing);
        reset(&incoming);
        let memory = Gpadl::new(shared, place, epoch, region)?;
        let channel = Self {
            outgoing: Outgoing::new(outgoing).map_err(|_| ChannelError::Size)?,
            incoming: Incoming::new(incoming).map_err(|_| ChannelError::Size)?,
            fault: None,
            is_armed: true,
            has_own_connection: offer.is_dedicated || shared.version().has_event_flags(),
            connection_id: offer.connection_id,
            channel: offer.channel,
            place,
            epoch,
            shared: shared.clone(),
            memory: Some(memory),
            offer,
        };
        claim.is_kept = true;
        // From here on, a drop closes the channel, however much of the opening the host has done.
        channel.ask_to_open(options)?;
        Ok(channel)
    }

    fn ask_to_open(&self, options: &ChannelOptions) -> Result<(), ChannelError> {
        let version = self.shared.version();
        let processor =
            if version.has_event_flags() { options.processor } else { self.shared.contact_processor() };
        // Where that one has no interrupt, the one that messages come to may have one.
        let processor =
            if self.shared.has_vector(processor) { processor } else { self.shared.contact_processor() };
        let target_vp = self.shared.synic().vp_index(processor).ok_or(ChannelError::Size)?;
        let message = VmbusOpenChannel {
            header: header(VmbusMessageType::OPEN_CHANNEL),
            channel_id: self.channel,
            open_id: self.channel,
            ring_gpadl_id: self.memory.as_ref().map_or(0, Gpadl::id),
            target_vp,
            downstream_page_offset: u32::try_from(options.outgoing_pages).map_err(|_| ChannelError::Size)?,
            user_defined: options.user_defined,
        };
        {
            let mut state = self.shared.state.lock();
            if !self.is_current() {
                return Err(ChannelError::Gone);
            }
            state.entry(self.place).ok_or(ChannelError::Gone)?.open = Awaited::Yes;
        }
        self.shared.post(message.as_bytes())?;
        let answer = self.shared.wait(self.shared.timeouts.answer, |state| {
            if !self.is_current() {
                return Some(Err(ChannelError::Gone));
            }
            match state.entry(self.place)?.open {
                Awaited::Came(status) => Some(Ok(status)),
                _ => None,
            }
        });
        match answer {
            Some(Ok(0)) => Ok(()),
            Some(Ok(status)) => {
                // There is nothing to close.
                if let Some(entry) = self.shared.state.lock().entry(self.place) {
                    entry.open = Awaited::No;
                }
                Err(ChannelError::Refused(status))
            }
            Some(Err(gone)) => Err(gone),
            None => Err(Fault::Timeout.into()),
        }
    }
}

impl<P: Platform> Channel<P> {
    /// Closes the channel, and blocks until the host has released its rings, [`Timeouts::answer`](crate::Timeouts::answer) at
    /// most: the host has then completed
    /// everything that was sent by them. A drop does the same without a result.
    ///
    /// # Errors
    ///
    /// [`Fault::Timeout`] where the host does not confirm; it may then still use what it was told of.
    pub fn close(mut self) -> Result<(), Fault> {
        if self.shut() { Ok(()) } else { Err(Fault::Timeout) }
    }

    /// Closes it, once; whether the host has released it.
    fn shut(&mut self) -> bool {
        let Some(memory) = self.memory.take() else { return true };
        // On a later connection, the entry is of another channel, and the host has released everything.
        let must_close = {
            let mut state = self.shared.state.lock();
            match state.entry(self.place).filter(|_| memory.is_current()) {
                None => None,
                Some(entry) => Some(core::mem::replace(&mut entry.open, Awaited::No) != Awaited::No),
            }
        };
        let Some(must_close) = must_close else { return true };
        // The confirmation that the rings are torn down is the host's word that it has closed; but only if it was told to.
        let is_closed =
            !must_close || self.shared.post_channel(VmbusMessageType::CLOSE_CHANNEL, self.channel).is_ok();
        let generation = memory.generation();
        let is_released = match is_closed {
            true => memory.free(),
            false => {
                memory.leak();
                false
            }
        };
        let mut state = self.shared.state.lock();
        if self.shared.generation() == generation {
            if let Some(entry) = state.entry(self.place) {
                entry.is_taken = false;
            }
        }
        drop(state);
        self.shared.release_if_gone(self.place);
        is_released
    }
}

impl<P: Platform> Drop for Channel<P> {
    fn drop(&mut self) {
        self.shut();
    }
}
