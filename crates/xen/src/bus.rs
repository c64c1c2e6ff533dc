//! Xenbus: the devices of a domain in xenstore, and how a frontend and its backend agree.

use crate::events::Port;
use crate::hypervisor::Hypervisor;
use crate::store::{Store, StoreError, Transaction, Watch};
use crate::text::Text;
use core::fmt;
use core::time::Duration;
use paravirt_device::Fault;
use paravirt_platform::{PageArc, Platform};

/// How long a backend may take to get ready: at the start of the host its scripts may run for long.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(180);
/// How long it may take to close.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest wait for a backend to close that has not connected.
const UNCONNECTED_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the state of a backend is read while waiting for it: the event of a change may be lost while it closes.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// The state of one side of a device.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub enum State {
    /// The node has gone, or its value is unknown.
    Unknown = 0,
    /// It has begun.
    Initialising = 1,
    /// A backend waits for its frontend.
    InitWait = 2,
    /// A frontend has published its rings.
    Initialised = 3,
    /// In service.
    Connected = 4,
    /// It is about to close.
    Closing = 5,
    /// It is closed.
    Closed = 6,
    /// Parts of it are being exchanged.
    Reconfiguring = 7,
    /// Parts of it were exchanged.
    Reconfigured = 8,
}

impl State {
    fn new(number: Option<u64>) -> Self {
        match number {
            Some(1) => Self::Initialising,
            Some(2) => Self::InitWait,
            Some(3) => Self::Initialised,
            Some(4) => Self::Connected,
            Some(5) => Self::Closing,
            Some(6) => Self::Closed,
            Some(7) => Self::Reconfiguring,
            Some(8) => Self::Reconfigured,
            _ => Self::Unknown,
        }
    }

    /// Whether a backend in this state will not serve its frontend any more.
    pub fn is_ending(self) -> bool {
        matches!(self, Self::Unknown | Self::Closing | Self::Closed)
    }
}

/// The class of a device.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Ord, PartialOrd)]
#[non_exhaustive]
pub enum Class {
    /// A disk: "vbd".
    Block,
    /// A network card: "vif".
    Net,
    /// Another class; those of up to eight letters are known.
    Other(Text<8>),
}

impl Ord for Text<8> {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl PartialOrd for Text<8> {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Class {
    fn new(name: &str) -> Option<Self> {
        match name {
            "vbd" => Some(Self::Block),
            "vif" => Some(Self::Net),
            other => Text::format(format_args!("{other}")).map(Self::Other),
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Block => f.write_str("vbd"),
            Self::Net => f.write_str("vif"),
            Self::Other(name) => name.fmt(f),
        }
    }
}

/// Where a device is: its class and its number, by which the host names it.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub struct Address {
    /// The class.
    pub class: Class,
    /// The number: of a disk its device number, as 51712 for xvda; of a card its index.
    pub id: u32,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "xen:{}/{}", self.class, self.id)
    }
}

/// Passes every device in xenstore to `each`, by class, and in each class as the host lists them.
///
/// # Errors
///
/// [`StoreError`].
pub fn devices<P: Platform>(store: &Store<P>, mut each: impl FnMut(Address)) -> Result<(), StoreError> {
    const MAX_CLASSES: usize = 8;
    let mut classes = [None; MAX_CLASSES];
    let mut count = 0usize;
    store.list(format_args!("device"), |name| {
        if let (Some(class), Some(place)) = (Class::new(name), classes.get_mut(count)) {
            *place = Some(class);
            count = count.saturating_add(1);
        }
    })?;
    for class in classes.into_iter().flatten() {
        store.list(format_args!("device/{class}"), |name| {
            name.parse().into_iter().for_each(|id| each(Address { class, id }));
        })?;
    }
    Ok(())
}

/// The frontend's side of a device in xenstore.
pub struct Frontend<P: Platform> {
    store: PageArc<P, Store<P>>,
    address: Address,
    backend: Text<96>,
    domain: u16,
    watch: Option<Watch<P>>,
}

impl<P: Platform> Frontend<P> {
    /// Reads where the backend of a device is, and watches its state.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn open(store: &PageArc<P, Store<P>>, address: Address) -> Result<Self, StoreError> {
        let mut this = Self { store: store.clone(), address, backend: Text::new(), domain: 0, watch: None };
        this.find_backend()?;
        Ok(this)
    }

    /// Reads where the backend is: another place in another domain.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn find_backend(&mut self) -> Result<(), StoreError> {
        let Address { class, id } = self.address;
        self.watch = None;
        self.backend = self.store.text(format_args!("device/{class}/{id}/backend"))?;
        let domain = self.store.number(format_args!("device/{class}/{id}/backend-id"))?;
        self.domain = domain.and_then(|domain| u16::try_from(domain).ok()).ok_or(StoreError::Missing)?;
        self.watch = Some(Watch::new(&self.store, format_args!("{}", self.backend))?);
        Ok(())
    }

    /// Returns the hypervisor.
    pub fn hypervisor(&self) -> &PageArc<P, Hypervisor<P>> {
        self.store.hypervisor()
    }

    /// Returns xenstore.
    pub fn store(&self) -> &PageArc<P, Store<P>> {
        &self.store
    }

    /// Returns where the device is.
    pub fn address(&self) -> Address {
        self.address
    }

    /// Returns the path of the backend.
    pub fn backend(&self) -> &str {
        self.backend.as_str()
    }

    /// Returns the domain of the backend.
    pub fn domain(&self) -> u16 {
        self.domain
    }

    /// Returns how many queues the backend offers, at least one.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn offered_queues(&self) -> Result<u16, StoreError> {
        let offered = self.number("multi-queue-max-queues", 1)?;
        Ok(u16::try_from(offered).unwrap_or(u16::MAX).max(1))
    }

    /// Allocates an event channel to the backend.
    ///
    /// # Errors
    ///
    /// [`crate::CallError`].
    pub fn port(&self) -> Result<Port<P>, crate::CallError> {
        Port::new(self.hypervisor(), self.domain)
    }

    /// Whether something of the backend has changed since the last call. Receives watch events.
    pub fn has_changed(&self) -> bool {
        self.store.poll();
        self.watch.as_ref().is_some_and(Watch::take)
    }

    /// Reads the state of the backend.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn backend_state(&self) -> Result<State, StoreError> {
        self.store.number(format_args!("{}/state", self.backend)).map(State::new)
    }

    /// Reads the state of this side.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn state(&self) -> Result<State, StoreError> {
        let Address { class, id } = self.address;
        self.store.number(format_args!("device/{class}/{id}/state")).map(State::new)
    }

    /// Sets the state of this side. A device that has gone stays so.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn set_state(&self, state: State) -> Result<(), StoreError> {
        let Address { class, id } = self.address;
        // A write would make the node anew.
        if self.state()? == State::Unknown {
            return Err(StoreError::Missing);
        }
        self.store.write(format_args!("device/{class}/{id}/state"), format_args!("{}", state as u32))
    }

    /// Waits until the state of the backend is as `is_wanted` wants it. Blocks for at most `timeout`.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; [`Fault::Timeout`] if it does not come to that.
    pub fn wait(&self, timeout: Duration, is_wanted: impl Fn(State) -> bool) -> Result<State, StoreError> {
        let platform = self.hypervisor().platform();
        let deadline = platform.now().saturating_add(timeout);
        loop {
            let state = self.backend_state()?;
            if is_wanted(state) {
                return Ok(state);
            }
            let now = platform.now();
            if now >= deadline {
                return Err(Fault::Timeout.into());
            }
            let next = now.saturating_add(POLL_INTERVAL);
            while platform.now() < next && !self.has_changed() {
                platform.relax();
            }
        }
    }

    /// Brings both sides to the beginning, whatever a former user of the device left. Blocks for the backend.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; [`Fault::Timeout`] if the backend does not get there.
    pub fn restart(&self) -> Result<(), StoreError> {
        let deadline = self.hypervisor().platform().now().saturating_add(CONNECT_TIMEOUT);
        if !matches!(self.state()?, State::Initialising | State::Unknown) {
            self.close()?;
            self.set_state(State::Initialising)?;
        }
        loop {
            let left = deadline.since(self.hypervisor().platform().now());
            if left.is_zero() {
                return Err(Fault::Timeout.into());
            }
            if self.wait(left, |state| matches!(state, State::InitWait | State::Closing))? == State::InitWait
            {
                return Ok(());
            }
            // A slow backend sees the latest state of several, and may have missed that this side was closed: it is told again.
            self.set_state(State::Closed)?;
            self.wait(CLOSE_TIMEOUT, |state| state != State::Closing)?;
            self.set_state(State::Initialising)?;
        }
    }

    /// Closes this side, and waits until the backend has closed its side. A backend that has gone is closed.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; [`Fault::Timeout`] if the backend does not close.
    pub fn close(&self) -> Result<(), StoreError> {
        let before = self.backend_state()?;
        match before {
            State::Unknown => return Ok(()),
            // It would begin to close again, and could miss what this side does afterwards.
            State::Closed => return self.set_state(State::Closed),
            _ => {}
        }
        self.set_state(State::Closing)?;
        let is_closing = |state: State| state.is_ending() || state < State::InitWait;
        match before {
            // Not every backend closes that has not connected.
            State::InitWait => match self.wait(UNCONNECTED_TIMEOUT, is_closing) {
                Err(StoreError::Faulted(Fault::Timeout)) => {}
                result => drop(result?),
            },
            _ => drop(self.wait(CLOSE_TIMEOUT, |state| is_closing(state) || state == State::InitWait)?),
        }
        self.set_state(State::Closed)?;
        self.wait(CLOSE_TIMEOUT, |state| state <= State::InitWait || state == State::Closed).map(drop)
    }

    /// Makes writes below the frontend's directory at once.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn publish(
        &self,
        mut write: impl FnMut(&Nodes<'_, P>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.store.transaction(|transaction| write(&Nodes { transaction, address: self.address }))
    }

    /// Reads a number of the backend; `default` if there is none.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn number(&self, node: &str, default: u64) -> Result<u64, StoreError> {
        Ok(self.store.number(format_args!("{}/{node}", self.backend))?.unwrap_or(default))
    }

    /// Reads whether the backend has a feature.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn has(&self, feature: &str) -> Result<bool, StoreError> {
        self.number(feature, 0).map(|value| value != 0)
    }

    /// Reads a text of this side's directory, in which the host describes the device.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn text<const N: usize>(&self, node: &str) -> Result<Text<N>, StoreError> {
        let Address { class, id } = self.address;
        self.store.text(format_args!("device/{class}/{id}/{node}"))
    }

    /// Reads a number of this side's directory.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn own_number(&self, node: &str) -> Result<Option<u64>, StoreError> {
        let Address { class, id } = self.address;
        self.store.number(format_args!("device/{class}/{id}/{node}"))
    }
}

impl<P: Platform> fmt::Debug for Frontend<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frontend")
            .field("address", &self.address)
            .field("backend", &self.backend)
            .finish_non_exhaustive()
    }
}

/// The frontend's directory, within a transaction.
pub struct Nodes<'a, P: Platform> {
    transaction: &'a Transaction<'a, P>,
    address: Address,
}

impl<P: Platform> Nodes<'_, P> {
    /// Sets the value of a node.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn write(&self, node: fmt::Arguments<'_>, value: fmt::Arguments<'_>) -> Result<(), StoreError> {
        let Address { class, id } = self.address;
        self.transaction.write(format_args!("device/{class}/{id}/{node}"), value)
    }

    /// Sets a node to a number.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn number(&self, node: &str, value: u32) -> Result<(), StoreError> {
        self.write(format_args!("{node}"), format_args!("{value}"))
    }
}

impl<P: Platform> fmt::Debug for Nodes<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nodes").field("address", &self.address).finish_non_exhaustive()
    }
}
