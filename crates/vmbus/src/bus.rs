use crate::connect::header;
use crate::shared::VmbusShared;
use crate::state::Phase;
use crate::{Channel, ChannelError, ChannelOptions, ConnectError, Guid, Offer, Timeouts, Version};
use core::fmt;
use core::task::Waker;
use hyperv_bindings::vmbus::{VmbusMessageType, VmbusTlConnectRequest};
use paravirt_device::{Arm, Connection, Fault, RingKind, Signalling};
use paravirt_hyperv::Hypervisor;
use paravirt_platform::{PageArc, Platform};
use zerocopy::IntoBytes;

/// An event of the bus.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
#[allow(clippy::large_enum_variant, reason = "an event is looked at once, and not stored")]
pub enum BusEvent {
    /// A device was offered. Its subchannels are not reported: its driver finds them by [`Vmbus::find`].
    Offered(Offer),
    /// A device was removed. Whoever has its channel open drops it.
    Removed(Offer),
}

/// A connection to VMBus. A handle: clones are the same connection, which ends with the last of them and of the channels.
pub struct Vmbus<P: Platform> {
    shared: PageArc<P, VmbusShared<P>>,
}

impl<P: Platform> Clone for Vmbus<P> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<P: Platform> fmt::Debug for Vmbus<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vmbus")
            .field("version", &self.version())
            .field("fault", &self.fault())
            .finish_non_exhaustive()
    }
}

impl<P: Platform> Vmbus<P> {
    /// Enables the SynIC of every processor, connects with the newest version up to `newest` that the host supports, and waits for
    /// its offers: [`offers`](Self::offers). Blocks for the host's answers, by the default [`Timeouts`].
    ///
    /// # Errors
    ///
    /// [`ConnectError`]; the SynIC is then off again.
    pub fn connect(hypervisor: &PageArc<P, Hypervisor<P>>, newest: Version) -> Result<Self, ConnectError> {
        Self::connect_with(hypervisor, newest, Timeouts::new())
    }

    /// As [`connect`](Self::connect), by these timeouts, which the drivers on the connection keep too.
    ///
    /// # Errors
    ///
    /// [`ConnectError`]; the SynIC is then off again.
    pub fn connect_with(
        hypervisor: &PageArc<P, Hypervisor<P>>,
        newest: Version,
        timeouts: Timeouts,
    ) -> Result<Self, ConnectError> {
        let shared = VmbusShared::open(hypervisor, timeouts)?;
        shared.connect(newest)?;
        Ok(Self { shared })
    }

    /// Connects again, after [`unload`](Self::unload). Blocks as [`connect`](Self::connect) does.
    ///
    /// # Errors
    ///
    /// [`ConnectError`]; [`ConnectError::Failed`] where it is connected.
    pub fn connect_again(&self, newest: Version) -> Result<(), ConnectError> {
        if self.shared.state.lock().phase == Phase::Connected {
            return Err(ConnectError::Failed);
        }
        self.shared.clear_fault();
        self.shared.connect(newest)
    }

    /// Ends the connection, so that the next kernel can make one (kexec): a driver that still has a channel finds it removed. The
    /// host has released all memory when this returns.
    ///
    /// # Errors
    ///
    /// [`Fault::Timeout`] where the host does not confirm within [`Timeouts::unload`], or a connection before version 3.0, which has no
    /// message for that, still has open channels; their memory is leaked then.
    pub fn unload(&self) -> Result<(), Fault> {
        self.shared.unload()
    }

    /// How its devices are connected.
    pub fn connection(&self) -> Connection {
        let signalling = match self.shared.interrupts.armed() {
            Arm::Armed => Signalling::Bus,
            _ => Signalling::Polled,
        };
        Connection::new(signalling, RingKind::Vmbus)
    }

    /// How long the drivers of the connection wait for the host.
    pub fn timeouts(&self) -> &Timeouts {
        &self.shared.timeouts
    }

    /// The negotiated version.
    pub fn version(&self) -> Version {
        self.shared.version()
    }

    /// The fault of the connection, where the host sent a malformed message. Open channels return it; no channel can be opened.
    pub fn fault(&self) -> Option<Fault> {
        self.shared.fault()
    }

    /// The channels that are offered now, in the order of their offers.
    pub fn offers(&self, each: &mut dyn FnMut(&Offer)) {
        self.shared.collect();
        // Without the lock, as `each` may open a channel.
        let count = self.shared.state.lock().channels.len();
        for place in 0..count {
            let offer = self
                .shared
                .state
                .lock()
                .entry(place)
                .filter(|entry| !entry.is_rescinded && !entry.offer.is_socket())
                .map(|entry| {
                    entry.is_announced = true;
                    entry.offer
                });
            offer.iter().for_each(&mut *each);
        }
    }

    /// Channel `index` of the device `instance`: 0 is its primary one.
    pub fn find(&self, instance: &Guid, index: u16) -> Option<Offer> {
        self.shared.collect();
        let state = self.shared.state.lock();
        let is_wanted = |offer: &&Offer| offer.instance == *instance && offer.subchannel == index;
        let live = state.channels.iter().flatten().filter(|entry| !entry.is_rescinded);
        live.map(|entry| &entry.offer).find(is_wanted).copied()
    }

    /// The next event since the last call. Rescinded channels that nobody has open are released to the host here, without which it
    /// does not offer their devices again. Posts a message at most; does not wait for answers.
    pub fn poll(&self) -> Option<BusEvent> {
        self.shared.collect();
        let mut released = None;
        let event = {
            let mut state = self.shared.state.lock();
            let mut event = None;
            for (place, entry) in state.channels.iter_mut().enumerate() {
                let Some(entry) = entry else { continue };
                if !entry.is_announced && !entry.is_rescinded && !entry.offer.is_socket() {
                    entry.is_announced = true;
                    event = Some(BusEvent::Offered(entry.offer));
                    break;
                }
                if entry.is_rescinded && !entry.is_removal_announced {
                    entry.is_removal_announced = true;
                    released = Some(place);
                    event = Some(BusEvent::Removed(entry.offer));
                    break;
                }
            }
            event
        };
        released.into_iter().for_each(|place| self.shared.release_if_gone(place));
        event
    }

    /// Registers the task to wake when something happens on the bus.
    pub fn register(&self, waker: &Waker) {
        self.shared.interrupts.bus_cell.register(waker);
    }

    /// Whether the next event wakes the task of [`register`](Self::register), or there is one already.
    #[must_use]
    pub fn arm(&self) -> Arm {
        self.shared.collect();
        if self.shared.has_news() {
            return Arm::Pending;
        }
        let mut state = self.shared.state.lock();
        let is_news = |entry: &crate::state::Entry| {
            if entry.is_rescinded { !entry.is_removal_announced } else { !entry.is_announced }
        };
        // Sockets are reported by `poll_socket`.
        let is_news = |entry: &crate::state::Entry| is_news(entry) && !entry.offer.is_socket();
        if state.channels.iter_mut().flatten().any(|entry| is_news(entry)) {
            Arm::Pending
        } else {
            self.shared.interrupts.armed()
        }
    }

    /// Asks the host for a socket between `endpoint`, which the guest chooses, and the host's `service`. Where it is granted,
    /// [`poll_socket`](Self::poll_socket) returns a channel of that instance; where not, [`poll_refusal`](Self::poll_refusal) returns
    /// the endpoint from version 4.1 on. Hosts of version 4.0 do not answer a refusal.
    ///
    /// # Errors
    ///
    /// The fault of the connection; [`Fault::Refused`] where its version is older than 4.0, which has no sockets.
    pub fn connect_socket(&self, endpoint: &Guid, service: &Guid) -> Result<(), Fault> {
        let version = self.version();
        if version < Version::new(4, 0) {
            return Err(Fault::Refused);
        }
        let message = VmbusTlConnectRequest {
            header: header(VmbusMessageType::TL_CONNECT_REQUEST),
            endpoint_id: endpoint.0,
            service_id: service.0,
            silo_id: [0; 16],
        };
        let silo = size_of_val(&message.silo_id);
        let unused = if version < Version::new(5, 2) { silo } else { 0 };
        let bytes = message.as_bytes();
        self.shared.post(bytes.get(..bytes.len().saturating_sub(unused)).unwrap_or(bytes))
    }

    /// The next endpoint to which the host has refused a socket.
    pub fn poll_refusal(&self) -> Option<Guid> {
        self.shared.collect();
        self.shared.state.lock().take_refusal()
    }

    /// The next channel since the last call that is one end of a socket. Neither [`poll`](Self::poll) nor
    /// [`offers`](Self::offers) reports it, and its owner finds that it was removed.
    pub fn poll_socket(&self) -> Option<Offer> {
        self.shared.collect();
        let mut state = self.shared.state.lock();
        state.channels.iter_mut().flatten().find(|entry| entry.is_new_socket()).map(|entry| {
            entry.is_announced = true;
            entry.offer
        })
    }

    /// Whether the next socket that is offered or refused wakes the task of [`register_sockets`](Self::register_sockets), or there is
    /// one already.
    #[must_use]
    pub fn arm_sockets(&self) -> Arm {
        self.shared.collect();
        let state = self.shared.state.lock();
        let has_new = state.channels.iter().flatten().any(crate::state::Entry::is_new_socket);
        if self.shared.has_news() || state.has_refusal() || has_new {
            Arm::Pending
        } else {
            self.shared.interrupts.armed()
        }
    }

    /// Registers the task to wake when a socket is offered or refused.
    pub fn register_sockets(&self, waker: &Waker) {
        self.shared.interrupts.socket_cell.register(waker);
    }

    /// Opens a channel. Blocks for the host's answers, [`Timeouts::answer`] each at most.
    ///
    /// # Errors
    ///
    /// [`ChannelError`].
    pub fn open(&self, offer: &Offer, options: &ChannelOptions) -> Result<Channel<P>, ChannelError> {
        Channel::open(&self.shared, offer, options)
    }
}
