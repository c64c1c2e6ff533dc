//! Connecting to the host, and disconnecting.
//!
//! Source: the messages as `vmbus_core` of OpenVMM (MIT) shows them.

use crate::Version;
use crate::shared::VmbusShared;
use crate::state::Phase;
use core::fmt;
use hyperv_bindings::vmbus::{
    VMBUS_MESSAGE_CONNECTION, VMBUS_MULTI_CLIENT_CONNECTION, VMBUS_SINT, VmbusContactTarget,
    VmbusInitiateContact, VmbusMessageHeader, VmbusMessageType, VmbusVersion,
};
use paravirt_device::Fault;
use paravirt_hyperv::{HvStatus, OpenError};
use paravirt_platform::{AllocError, Platform};
use zerocopy::IntoBytes;

/// Why there is no connection.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum ConnectError {
    /// The hypervisor interface could not be taken into service.
    Hypervisor(OpenError),
    /// The host has no VMBus: it does not know the port for messages.
    Absent,
    /// The hypervisor refused the contact, with this status.
    Refused(HvStatus),
    /// The host supports no version that this crate does.
    Version,
    /// The host knows the version, but has no resources or failed.
    Failed,
    /// The host does not answer.
    Timeout,
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hypervisor(error) => error.fmt(f),
            Self::Absent => f.write_str("the host has no VMBus"),
            Self::Refused(status) => write!(f, "the contact was refused with status {:#x}", status.0),
            Self::Version => f.write_str("the host supports no version of VMBus that this driver does"),
            Self::Failed => f.write_str("the host could not make the connection"),
            Self::Timeout => f.write_str("the host does not answer"),
        }
    }
}

impl core::error::Error for ConnectError {}

impl From<OpenError> for ConnectError {
    fn from(error: OpenError) -> Self {
        Self::Hypervisor(error)
    }
}

impl From<AllocError> for ConnectError {
    fn from(_: AllocError) -> Self {
        Self::Hypervisor(OpenError::Memory)
    }
}

pub(crate) const fn header(message_type: VmbusMessageType) -> VmbusMessageHeader {
    VmbusMessageHeader { message_type, reserved: 0 }
}

impl<P: Platform> VmbusShared<P> {
    /// Negotiates a version, from `newest` down, and waits for the offers.
    pub(crate) fn connect(&self, newest: Version) -> Result<(), ConnectError> {
        let mut has_ports = true;
        let mut result = Err(ConnectError::Version);
        for version in Version::ALL.into_iter().filter(|version| *version <= newest) {
            if version.has_message_port() && !has_ports {
                continue;
            }
            match self.contact(version) {
                Ok(true) => {
                    result = Ok(version);
                    break;
                }
                Ok(false) => {}
                // Hosts before version 5.0 have no such port.
                Err(ConnectError::Absent) if version.has_message_port() => has_ports = false,
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        let version = match result {
            Ok(version) => version,
            Err(error) => {
                self.state.lock().phase = Phase::Idle;
                return Err(error);
            }
        };
        log::info!("vmbus: version {version}");
        self.post(header(VmbusMessageType::REQUEST_OFFERS).as_bytes()).map_err(|_| ConnectError::Timeout)?;
        let delivered = self.wait(self.timeouts.offers, |state| state.are_offers_delivered.then_some(()));
        if delivered.is_none() {
            log::warn!(
                "vmbus: the host has not reported its last offer: those that come later are hot-added"
            );
        }
        Ok(())
    }

    /// Proposes `version`; whether the host accepted.
    fn contact(&self, version: Version) -> Result<bool, ConnectError> {
        let vp = self
            .synic()
            .vp_index(self.contact_processor())
            .ok_or(ConnectError::Hypervisor(OpenError::Processor))?;
        let (port, interrupt_page_or_target) = if version.has_message_port() {
            let target = VmbusContactTarget {
                target_sint: VMBUS_SINT as u8,
                target_vtl: 0,
                reserved: 0,
                feature_flags: 0,
            };
            (VMBUS_MULTI_CLIENT_CONNECTION, zerocopy::transmute!(target))
        } else if version.has_event_flags() {
            (VMBUS_MESSAGE_CONNECTION, [0; 8])
        } else {
            (VMBUS_MESSAGE_CONNECTION, self.interrupts.page_address().to_le_bytes())
        };
        let message = VmbusInitiateContact {
            header: header(VmbusMessageType::INITIATE_CONTACT),
            version: VmbusVersion(version.0),
            target_message_vp: vp,
            interrupt_page_or_target,
            // No monitor pages: all channels are signalled by hypercall.
            parent_to_child_monitor_page: 0,
            child_to_parent_monitor_page: 0,
        };
        {
            let mut state = self.state.lock();
            self.end_all(&mut state);
            state.phase = Phase::Contacting;
            state.response = None;
        }
        if !version.has_event_flags() {
            self.interrupts.set_page_known(true);
        }
        // Before the answer: the first messages behind it may be handled by an interrupt.
        self.interrupts.set_version(version);
        if let Err(status) = self.post_contact(port, message.as_bytes()) {
            self.interrupts.set_page_known(false);
            return Err(match status {
                HvStatus::INVALID_CONNECTION_ID => ConnectError::Absent,
                status => ConnectError::Refused(status),
            });
        }
        let response =
            self.wait(self.timeouts.contact, |state| state.response.take()).ok_or(ConnectError::Timeout)?;
        // A host that has answered has ended the connection before.
        self.set_released();
        // Hosts before version 2.4 do not set the state.
        let has_failed = version.has_event_flags() && response.connection_state != 0;
        match (response.is_supported, has_failed) {
            (false, _) => return Ok(false),
            (true, true) => return Err(ConnectError::Failed),
            (true, false) => {}
        }
        if !version.has_event_flags() {
            self.interrupts.set_page_known(true);
        }
        let returned = version.has_message_port() && response.connection_id != 0;
        let mut state = self.state.lock();
        state.connection_id = if returned { response.connection_id } else { VMBUS_MESSAGE_CONNECTION };
        state.phase = Phase::Connected;
        Ok(true)
    }

    /// Ends the connection: afterwards the host uses nothing of this guest's memory any more.
    pub(crate) fn unload(&self) -> Result<(), Fault> {
        let has_unload = self.version().has_unload();
        {
            let mut state = self.state.lock();
            match state.phase {
                // Without UNLOAD, a host has released everything where each channel was closed and each GPADL torn down.
                Phase::Connected if !has_unload && state.is_any_in_use() => return Err(Fault::Timeout),
                // Also one that the host has not confirmed.
                Phase::Connected | Phase::Unloading => state.phase = Phase::Unloading,
                _ => return Ok(()),
            }
        }
        if !has_unload {
            self.set_released();
            return Ok(());
        }
        let sent = self.post(header(VmbusMessageType::UNLOAD).as_bytes());
        sent.and_then(|()| {
            self.wait(self.timeouts.unload, |state| (state.phase == Phase::Unloaded).then_some(()))
                .ok_or(Fault::Timeout)
        })
    }

    pub(crate) fn unload_if_connected(&self) {
        if let Err(fault) = self.unload() {
            log::error!("vmbus: unload: {fault}");
        }
    }
}

impl<P: Platform> Drop for VmbusShared<P> {
    fn drop(&mut self) {
        self.unload_if_connected();
        self.unbind();
    }
}
