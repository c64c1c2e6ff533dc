//! What the queues of a device and the device itself share: its channels and its buffers.

use crate::channel::ChannelState;
use crate::control::Requests;
use crate::host_state::{Closed, HostState};
use crate::receive::RxState;
use crate::send::TxState;
use core::task::Waker;
use hyperv_bindings::netvsp::{
    NVSP_RECEIVE_BUFFER_ID, NVSP_SEND_BUFFER_ID, NvspMessageType, NvspRevokeBuffer,
};
use paravirt_device::Fault;
use paravirt_platform::{DmaBuffer, PageTable, Platform, SharedMemory};
use paravirt_vmbus::{Channel, Gpadl};
use spin::Mutex;
use zerocopy::IntoBytes;

/// The shared state of a device.
///
/// Memory that the host accesses lives here, or returns here with the state of a dropped queue: the two buffers,
/// the page of requests, and the headers and bounce slots in [`ChannelState::idle`]. [`close`](Self::close) closes the channels
/// before any of it is dropped.
pub(crate) struct NetShared<P: Platform, B: DmaBuffer> {
    /// The primary channel, then the subchannels.
    pub channels: PageTable<P, Mutex<ChannelState<P, B>>>,
    pub requests: Mutex<Requests<P>>,
    pub host: HostState<P>,
    /// The buffers that the host was told of. They are torn down after the channels have been closed.
    pub receive: Gpadl<P>,
    pub send: Gpadl<P>,
    /// Whether the host wants its buffers back before the channel is closed, as hosts before VMBus 4.0.
    pub revokes_first: bool,
}

impl<P: Platform, B: DmaBuffer> NetShared<P, B> {
    #[inline(always)]
    pub fn channel(&self, index: usize) -> Option<&Mutex<ChannelState<P, B>>> {
        self.channels.get(index)
    }

    /// The receive buffer.
    #[inline(always)]
    pub fn received(&self) -> Option<&SharedMemory> {
        self.receive.shared()
    }

    /// Takes in what came for queue `index`. A fault puts the device out of service.
    #[inline]
    pub fn pump_queue(&self, index: usize, rx: &mut RxState<P>, tx: &mut TxState<P, B>) -> Result<(), Fault> {
        if let Some(fault) = self.host.fault() {
            return Err(fault);
        }
        let (Some(channel), Some(memory)) = (self.channel(index), self.received()) else {
            return Err(Fault::Refused);
        };
        let pumped = channel.lock().pump_queue(rx, tx, &self.host, memory);
        pumped.map_err(|fault| self.fail(fault))
    }

    /// Takes in what came by the primary channel, for the device. A fault puts the device out of service.
    pub fn pump_device(&self) -> Result<(), Fault> {
        if let Some(fault) = self.host.fault() {
            return Err(fault);
        }
        let (Some(channel), Some(memory)) = (self.channel(0), self.received()) else {
            return Err(Fault::Refused);
        };
        let pumped = channel.lock().pump_device(&self.host, memory);
        pumped.map_err(|fault| self.fail(fault))
    }

    /// Puts the device out of service and closes its channels; the fault in force. No lock of this device is held.
    #[cold]
    pub fn fail(&self, fault: Fault) -> Fault {
        if self.host.fail(fault) {
            log::error!("netvsc: device out of service: {fault}");
            if self.close().is_err() {
                self.host.escalate();
            }
        }
        self.host.fault().unwrap_or(fault)
    }

    /// Takes the buffers back from the host, by the open primary channel. Neither message is answered; the GPADLs are.
    fn revoke(&self, channel: &mut Channel<P>) {
        let buffers = [
            (NvspMessageType::REVOKE_RECEIVE_BUFFER, NVSP_RECEIVE_BUFFER_ID, &self.receive),
            (NvspMessageType::REVOKE_SEND_BUFFER, NVSP_SEND_BUFFER_ID, &self.send),
        ];
        for (message_type, id, gpadl) in buffers {
            let message = NvspRevokeBuffer { message_type, id: id as u16, padding: [0; 34] };
            if channel.send_in_band(0, false, &[message.as_bytes()]).is_err() {
                return;
            }
            channel.kick();
            if !gpadl.revoke() {
                return;
            }
        }
    }

    /// Closes all channels, the primary one last, and ends the state of the queues that nobody owns. Owners of the others do
    /// that when they see [`HostState::closed`].
    fn close(&self) -> Result<(), Fault> {
        let mut closed = Ok(());
        for (index, channel) in self.channels.iter().enumerate().rev() {
            // Closing takes its time, and is done outside the lock.
            let channel = channel.lock().channel.take();
            if let Some(mut channel) = channel {
                channel.register(Waker::noop());
                if index == 0 && self.revokes_first {
                    self.revoke(&mut channel);
                }
                closed = closed.and(channel.close());
            }
        }
        self.host.set_closed(closed.is_ok());
        let state = if closed.is_ok() { Closed::Quiesced } else { Closed::Unconfirmed };
        self.channels.iter().for_each(|channel| channel.lock().end(state));
        if closed.is_err() {
            self.requests.lock().leak();
        }
        closed
    }
}

impl<P: Platform, B: DmaBuffer> Drop for NetShared<P, B> {
    /// Closes the channels where no fault has done that.
    fn drop(&mut self) {
        if self.host.fault().is_none() {
            let _ = self.close();
        }
    }
}
