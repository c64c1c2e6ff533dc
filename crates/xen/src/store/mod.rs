//! Xenstore: the tree in which domains find their devices, and negotiate with their backends. Xen `docs/misc/xenstore.txt`

mod error;
mod ring;
mod watch;
mod wire;

use crate::bytes::BytePage;
use crate::calls::Parameter;
use crate::events::Port;
use crate::hypervisor::{Hypervisor, OpenError};
use crate::text::Text;
use core::fmt;
use core::sync::atomic::Ordering;
use core::task::Waker;
use core::time::Duration;
pub use error::StoreError;
use error::error;
use paravirt_device::{Arm, Fault};
use paravirt_platform::{Instant, MmioRegion, PageArc, PageTable, Platform, WakerGroup};
use ring::StoreRing;
use spin::Mutex;
pub use watch::Watch;
use watch::WatchSlot;
pub use wire::Kind;
use wire::{HEADER_LEN, Header, MAX_BODY};

/// How long the host may take to answer a request: as xenstored may be busy with other domains, or be restarted.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The longest path or value that the drivers write.
const MAX_TEXT: usize = 128;
/// The number of watches at most; hosts allow 128.
const WATCHES: usize = 96;
/// How often a transaction is tried again that met another one.
const TRIES: u32 = 16;

struct Inner<P: Platform> {
    ring: StoreRing,
    /// The header that is being received, and how much of it has come; then of its body.
    header: [u8; HEADER_LEN],
    received: usize,
    request: u32,
    fault: Option<Fault>,
    /// Answers to no request: nothing depends on them.
    strays: u64,
    /// The physical address of the page.
    address: u64,
    /// The body of the message that is being received, or was last.
    body: PageTable<P, u8>,
    /// Keeps the page mapped.
    _region: MmioRegion<P>,
}

/// A connection to xenstore. All methods are for task context; a lock is held while the host answers.
pub struct Store<P: Platform> {
    hypervisor: PageArc<P, Hypervisor<P>>,
    port: Mutex<Port<P>>,
    inner: Mutex<Inner<P>>,
    watches: PageTable<P, WatchSlot>,
    /// The tasks that wait for watch events, by [`TASKS`].
    wakers: WakerGroup<P>,
}

/// Who waits for watch events: whoever looks for devices, and the balloon.
const DEVICES: usize = 0;
const BALLOON: usize = 1;
const TASKS: usize = 2;

impl<P: Platform> Store<P> {
    /// Maps xenstore's page.
    ///
    /// # Errors
    ///
    /// [`OpenError`]: the page cannot be mapped, or there is none.
    pub fn open(hypervisor: &PageArc<P, Hypervisor<P>>) -> Result<PageArc<P, Self>, OpenError> {
        let (address, port) = hypervisor.page_and_port(Parameter::StoreFrame, Parameter::StorePort)?;
        let platform = hypervisor.platform();
        let (region, page) = BytePage::map(platform, address)?;
        let ring = StoreRing::new(page);
        let body = PageTable::new(platform, MAX_BODY, |_| 0)?;
        let inner = Inner {
            ring,
            header: [0; HEADER_LEN],
            received: 0,
            request: 0,
            fault: None,
            strays: 0,
            address,
            body,
            _region: region,
        };
        let watches = PageTable::new(platform, WATCHES, |_| WatchSlot::default())?;
        let port = Port::existing(hypervisor, port);
        let wakers = WakerGroup::new(platform, TASKS)?;
        port.register(&wakers.waker());
        let (port, inner) = (Mutex::new(port), Mutex::new(inner));
        let this = Self { hypervisor: hypervisor.clone(), port, inner, watches, wakers };
        // Those of a former kernel. A host that has no such request keeps them: their events have unknown tokens.
        let _ = this.request(Kind::ResetWatches, 0, &[&[0]], |_| ());
        Ok(PageArc::new(platform, this)?)
    }

    /// Returns the hypervisor.
    pub fn hypervisor(&self) -> &PageArc<P, Hypervisor<P>> {
        &self.hypervisor
    }

    fn notify(&self) {
        self.port.lock().notify();
    }

    /// Connects again, after the guest was resumed in another domain, asks for the watches again, and has the devices connect. Blocks for the
    /// host.
    ///
    /// # Errors
    ///
    /// [`OpenError`]: the page has moved, or the host does not answer.
    pub fn resume(&self) -> Result<(), OpenError> {
        let (address, port) = self.hypervisor.page_and_port(Parameter::StoreFrame, Parameter::StorePort)?;
        {
            let inner = &mut *self.inner.lock();
            if inner.address != address {
                return Err(OpenError::NoFrames);
            }
            inner.ring.restart();
            (inner.received, inner.fault) = (0, None);
            let port = Port::existing(&self.hypervisor, port);
            port.register(&self.wakers.waker());
            *self.port.lock() = port;
        }
        for (token, watch) in self.watches.iter().enumerate() {
            if watch.is_used.load(Ordering::Acquire) {
                // One of a node that has gone.
                let _ = self.watch(token);
                watch.has_fired.store(true, Ordering::Release);
            }
        }
        self.hypervisor.tell_resumed();
        Ok(())
    }

    fn now(&self) -> Instant {
        self.hypervisor.platform().now()
    }

    /// Sends a request and passes the body of the answer to `answer`.
    fn request<R>(
        &self,
        kind: Kind,
        transaction: u32,
        body: &[&[u8]],
        answer: impl FnOnce(&[u8]) -> R,
    ) -> Result<R, StoreError> {
        let inner = &mut *self.inner.lock();
        if let Some(fault) = inner.fault {
            return Err(fault.into());
        }
        let done = self.exchange(inner, kind, transaction, body, answer);
        if let Err(StoreError::Faulted(fault)) = done {
            log::warn!("xenstore: {fault}");
            inner.fault = Some(fault);
        }
        done
    }

    fn exchange<R>(
        &self,
        inner: &mut Inner<P>,
        kind: Kind,
        transaction: u32,
        body: &[&[u8]],
        answer: impl FnOnce(&[u8]) -> R,
    ) -> Result<R, StoreError> {
        let len = body.iter().map(|part| part.len()).sum::<usize>();
        let len =
            u32::try_from(len).ok().filter(|len| *len as usize <= MAX_BODY).ok_or(StoreError::Length)?;
        inner.request = inner.request.wrapping_add(1).max(1);
        let header = Header { kind: kind as u32, request: inner.request, transaction, len };
        let deadline = self.now().saturating_add(TIMEOUT);
        for part in core::iter::once(&header.to_bytes()[..]).chain(body.iter().copied()) {
            self.send(inner, part, deadline)?;
        }
        self.notify();
        loop {
            let Some(reply) = self.receive(inner)? else {
                if self.now() >= deadline {
                    return Err(Fault::Timeout.into());
                }
                self.hypervisor.platform().relax();
                continue;
            };
            let body = inner.body.get(..reply.len as usize).unwrap_or_default();
            match () {
                () if reply.kind == Kind::WatchEvent as u32 => self.fire(body),
                // Such as the answer to a request whose answer came too late.
                () if reply.request != header.request => inner.strays = inner.strays.saturating_add(1),
                () if reply.kind == Kind::Error as u32 => return Err(error(body)),
                () if reply.kind != kind as u32 => return Err(StoreError::Refused),
                () => return Ok(answer(body)),
            }
        }
    }

    /// Writes `bytes`, and waits for room if there is none.
    fn send(&self, inner: &mut Inner<P>, mut bytes: &[u8], deadline: Instant) -> Result<(), StoreError> {
        while !bytes.is_empty() {
            let sent = inner.ring.write(bytes)?;
            bytes = bytes.get(sent..).unwrap_or_default();
            if sent == 0 {
                // The host may wait for room itself.
                self.receive_events(inner)?;
                self.notify();
                if self.now() >= deadline {
                    return Err(Fault::Timeout.into());
                }
                self.hypervisor.platform().relax();
            }
        }
        Ok(())
    }

    /// Receives a message, as far as it has come; its body is then in `body`.
    fn receive(&self, inner: &mut Inner<P>) -> Result<Option<Header>, Fault> {
        let Inner { ring, header, received, body, .. } = inner;
        let before = *received;
        if let Some(rest) = header.get_mut(*received..).filter(|rest| !rest.is_empty()) {
            *received = received.saturating_add(ring.read(rest)?);
        }
        let mut message = None;
        if *received >= HEADER_LEN {
            let read = Header::read(*header).ok_or(Fault::Protocol)?;
            let at = received.saturating_sub(HEADER_LEN);
            let rest = body.get_mut(at..read.len as usize).unwrap_or_default();
            *received = received.saturating_add(ring.read(rest)?);
            if received.saturating_sub(HEADER_LEN) >= read.len as usize {
                message = Some(read);
            }
        }
        if *received != before {
            // The host may wait for room.
            self.notify();
        }
        if message.is_some() {
            *received = 0;
        }
        Ok(message)
    }

    /// Records a watch event.
    fn fire(&self, body: &[u8]) {
        let watch = wire::token(body).and_then(|token| self.watches.get(token as usize));
        watch.into_iter().for_each(|watch| watch.has_fired.store(true, Ordering::Release));
    }

    /// Receives what has come while no answer is waited for: watch events, and what nobody asked for.
    fn receive_events(&self, inner: &mut Inner<P>) -> Result<(), Fault> {
        while let Some(message) = self.receive(inner)? {
            if message.kind == Kind::WatchEvent as u32 {
                self.fire(inner.body.get(..message.len as usize).unwrap_or_default());
            }
        }
        Ok(())
    }

    /// Receives watch events.
    pub fn poll(&self) {
        let inner = &mut *self.inner.lock();
        if inner.fault.is_none() {
            inner.fault = self.receive_events(inner).err();
        }
    }

    /// Enables the interrupt for watch events, and looks whether one has come.
    pub fn arm(&self) -> Arm {
        let (raced, is_signalled) = {
            let port = self.port.lock();
            (port.arm(), port.is_signalled())
        };
        let has_replies = {
            let inner = self.inner.lock();
            inner.fault.is_none() && inner.ring.has_replies()
        };
        match () {
            () if raced || has_replies => Arm::Pending,
            () if is_signalled => Arm::Armed,
            () => Arm::Unsignalled,
        }
    }

    /// Sets the task to wake at the next watch event.
    pub fn register(&self, waker: &Waker) {
        self.wakers.register(DEVICES, waker);
    }

    /// Sets the task of the balloon to wake at the next watch event.
    pub(crate) fn register_balloon(&self, waker: &Waker) {
        self.wakers.register(BALLOON, waker);
    }

    /// Passes the value of a node to `read`.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn read<R>(&self, path: fmt::Arguments<'_>, read: impl FnOnce(&[u8]) -> R) -> Result<R, StoreError> {
        let path = path_of(path)?;
        self.request(Kind::Read, 0, &[path.as_str().as_bytes(), &[0]], read)
    }

    /// Returns the value of a node as a text.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; [`StoreError::Length`] also if it is no text.
    pub fn text<const N: usize>(&self, path: fmt::Arguments<'_>) -> Result<Text<N>, StoreError> {
        self.read(path, |value| {
            let text = core::str::from_utf8(value.split(|byte| *byte == 0).next().unwrap_or_default());
            text.ok().and_then(|text| Text::format(format_args!("{text}"))).ok_or(StoreError::Length)
        })?
    }

    /// Returns the value of a node as a number; `None` if there is none, or it is no decimal number.
    ///
    /// # Errors
    ///
    /// [`StoreError`], other than that the node is missing.
    pub fn number(&self, path: fmt::Arguments<'_>) -> Result<Option<u64>, StoreError> {
        match self.read(path, wire::number) {
            Err(StoreError::Missing) => Ok(None),
            number => number,
        }
    }

    /// Sets the value of a node.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn write(&self, path: fmt::Arguments<'_>, value: fmt::Arguments<'_>) -> Result<(), StoreError> {
        self.write_in(0, path, value)
    }

    fn write_in(
        &self,
        transaction: u32,
        path: fmt::Arguments<'_>,
        value: fmt::Arguments<'_>,
    ) -> Result<(), StoreError> {
        let (path, value) = (path_of(path)?, path_of(value)?);
        self.request(
            Kind::Write,
            transaction,
            &[path.as_str().as_bytes(), &[0], value.as_str().as_bytes()],
            |_| (),
        )
    }

    /// Removes a node and what is below it.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn remove(&self, path: fmt::Arguments<'_>) -> Result<(), StoreError> {
        let path = path_of(path)?;
        self.request(Kind::Remove, 0, &[path.as_str().as_bytes(), &[0]], |_| ())
    }

    /// Passes the names in a directory to `each`, one after the other; nothing if there is no such directory.
    ///
    /// # Errors
    ///
    /// [`StoreError`], other than that the node is missing.
    pub fn list(&self, path: fmt::Arguments<'_>, mut each: impl FnMut(&str)) -> Result<(), StoreError> {
        let path = path_of(path)?;
        let listed = self.request(Kind::Directory, 0, &[path.as_str().as_bytes(), &[0]], |names| {
            let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
            names.filter_map(|name| core::str::from_utf8(name).ok()).for_each(&mut each);
        });
        if listed == Err(StoreError::Missing) { Ok(()) } else { listed }
    }

    /// Makes several writes at once: `write` makes them, and is called again if they met others.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; nothing was written then.
    pub fn transaction(
        &self,
        mut write: impl FnMut(&Transaction<'_, P>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        for _ in 0..TRIES {
            let number = self.request(Kind::TransactionStart, 0, &[&[0]], wire::number)?;
            let number = number.and_then(|number| u32::try_from(number).ok()).ok_or(StoreError::Refused)?;
            let written = write(&Transaction { store: self, number });
            let word = if written.is_ok() { b"T\0" } else { b"F\0" };
            let ended = self.request(Kind::TransactionEnd, number, &[word], |_| ());
            match (written, ended) {
                (Ok(()), Err(StoreError::Again)) | (Err(StoreError::Again), _) => {}
                (Ok(()), ended) => return ended,
                (Err(error), _) => return Err(error),
            }
        }
        Err(StoreError::Again)
    }
}

/// Several writes that take effect at once.
pub struct Transaction<'a, P: Platform> {
    store: &'a Store<P>,
    number: u32,
}

impl<P: Platform> Transaction<'_, P> {
    /// Sets the value of a node.
    ///
    /// # Errors
    ///
    /// [`StoreError`], with which the transaction is to be left.
    pub fn write(&self, path: fmt::Arguments<'_>, value: fmt::Arguments<'_>) -> Result<(), StoreError> {
        self.store.write_in(self.number, path, value)
    }
}

impl<P: Platform> fmt::Debug for Transaction<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction").field("number", &self.number).finish_non_exhaustive()
    }
}

/// A path or a value.
fn path_of(path: fmt::Arguments<'_>) -> Result<Text<MAX_TEXT>, StoreError> {
    Text::format(path).ok_or(StoreError::Length)
}

impl<P: Platform> fmt::Debug for Store<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("port", &*self.port.lock()).finish_non_exhaustive()
    }
}
