//! What a driver implements for a class of devices, and for its queues.

use super::DeviceError;
use crate::bus::{Frontend, Nodes, State};
use crate::events::Port;
use crate::store::StoreError;
use core::fmt;
use paravirt_platform::Platform;

/// What is particular to a class of devices.
pub trait DeviceClass<P: Platform>: Send + Sized {
    /// A queue, or a pair of them.
    type Queue: FrontQueue<P>;
    /// The state of a frontend that has published its rings.
    const PUBLISHED: State;

    /// Looks whether a device, whose backend is not waited for yet, can get ready at all.
    ///
    /// # Errors
    ///
    /// [`DeviceError`].
    fn check(&self, _frontend: &Frontend<P>) -> Result<(), DeviceError> {
        Ok(())
    }

    /// Reads what a backend offers that waits for its frontend. After a reset it is called again.
    ///
    /// # Errors
    ///
    /// [`DeviceError`].
    fn negotiate(&mut self, frontend: &Frontend<P>) -> Result<(), DeviceError>;

    /// How many of the queues the backend is to use.
    fn active(&self, queues: u16) -> u16 {
        queues
    }

    /// Writes the nodes of the device, for `queues` queues, besides those of the queues.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    fn publish(&self, nodes: &Nodes<'_, P>, queues: u16) -> Result<(), StoreError>;

    /// Reads what a backend tells that has connected.
    ///
    /// # Errors
    ///
    /// [`DeviceError`].
    fn connected(&mut self, frontend: &Frontend<P>) -> Result<(), DeviceError>;
}

/// What becomes of requests that a backend has not answered.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum InFlight {
    /// They are returned as aborted.
    Abort,
    /// They are sent again, to the backend of the domain in which the guest was resumed.
    SendAgain,
}

/// A node that publishes a ring or an event channel: its name, and its value.
pub type QueueNode = (&'static str, Option<u32>, u32);

/// The nodes of a queue.
#[derive(Copy, Clone, Debug)]
pub struct QueueNodes {
    nodes: [Option<QueueNode>; Self::MOST],
    len: usize,
}

impl QueueNodes {
    /// The number of nodes at most.
    const MOST: usize = 12;

    /// No nodes.
    pub const fn new() -> Self {
        Self { nodes: [None; Self::MOST], len: 0 }
    }

    /// Adds a node, whose name may end in a number. More than there is room for are left out: a ring has at most eight pages.
    pub fn add(&mut self, name: &'static str, index: Option<u32>, value: u32) {
        if let Some(place) = self.nodes.get_mut(self.len) {
            *place = Some((name, index, value));
            self.len = self.len.saturating_add(1);
        }
    }

    /// Writes the nodes; those of queue `queue` of several into a directory of their own.
    pub(super) fn write<P: Platform>(
        &self,
        nodes: &Nodes<'_, P>,
        queue: Option<u16>,
    ) -> Result<(), StoreError> {
        for (name, index, value) in self.nodes.iter().flatten() {
            let write = |path: fmt::Arguments<'_>| nodes.write(path, format_args!("{value}"));
            match (queue, index) {
                (None, None) => write(format_args!("{name}"))?,
                (None, Some(index)) => write(format_args!("{name}{index}"))?,
                (Some(queue), None) => write(format_args!("queue-{queue}/{name}"))?,
                (Some(queue), Some(index)) => write(format_args!("queue-{queue}/{name}{index}"))?,
            }
        }
        Ok(())
    }
}

impl Default for QueueNodes {
    fn default() -> Self {
        Self::new()
    }
}

/// A queue, or a pair of them, of a device.
pub trait FrontQueue<P: Platform>: Send + Sized {
    /// Takes back what is in flight.
    fn drain(&mut self, in_flight: InFlight);

    /// Begins anew, for the backend of `frontend`, with new event channels, of which `open_port` allocates one at each call; returns what
    /// is to be published.
    ///
    /// # Errors
    ///
    /// [`DeviceError`]: the last backend has not let go of a ring, or there is no event channel.
    fn restart(
        &mut self,
        frontend: &Frontend<P>,
        open_port: &mut dyn FnMut() -> Result<Port<P>, DeviceError>,
    ) -> Result<QueueNodes, DeviceError>;

    /// The device is in service, at `gate`: sends what is to be sent again.
    fn resume(&mut self, gate: u32);

    /// Drops what nobody takes back: the owner of the queue has dropped it.
    fn forget(&mut self);

    /// Passes the event channels of the queue to `work`.
    fn for_each_port(&self, work: &mut dyn FnMut(&Port<P>));
}
