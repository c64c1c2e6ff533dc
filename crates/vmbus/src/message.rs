//! Messages of the host, parsed: pure and total.
//!
//! Source: the messages as `vmbus_core::protocol` of OpenVMM (MIT) shows them.

use crate::Offer;
use hyperv_bindings::Guid;
use hyperv_bindings::vmbus::{
    VmbusChannelMessage, VmbusGpadlCreated, VmbusGpadlTorndown, VmbusMessageHeader, VmbusMessageType,
    VmbusModifyChannelResponse, VmbusOfferChannel, VmbusOpenChannelResult, VmbusTlConnectResult,
    VmbusVersionResponse, VmbusVersionResponse2,
};
use zerocopy::FromBytes;

/// A message of the host.
#[derive(Copy, Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum HostMessage {
    /// OFFER_CHANNEL: a channel is offered.
    Offer(Offer),
    /// RESCIND_CHANNEL_OFFER: a channel goes away.
    Rescind {
        /// The channel.
        channel: u32,
    },
    /// ALL_OFFERS_DELIVERED: the offers that there are now have been made.
    AllOffersDelivered,
    /// OPEN_CHANNEL_RESULT.
    OpenResult {
        /// The channel.
        channel: u32,
        /// The id that the guest chose in OPEN_CHANNEL.
        open_id: u32,
        /// 0 for success.
        status: u32,
    },
    /// GPADL_CREATED.
    GpadlCreated {
        /// The channel.
        channel: u32,
        /// The GPADL.
        gpadl: u32,
        /// 0 for success.
        status: u32,
    },
    /// GPADL_TORNDOWN: the host has released a GPADL.
    GpadlTorndown {
        /// The GPADL.
        gpadl: u32,
    },
    /// VERSION_RESPONSE, the answer to INITIATE_CONTACT.
    VersionResponse {
        /// Whether the host supports the version.
        is_supported: bool,
        /// From version 2.4 on, 0 for success; else undefined.
        connection_state: u8,
        /// From version 5.0 on, the connection id for messages.
        connection_id: u32,
        /// From version 6.0 on.
        features: u32,
    },
    /// UNLOAD_COMPLETE: the connection has ended.
    UnloadComplete,
    /// MODIFY_CHANNEL_RESPONSE, the answer to a change of a channel's processor.
    ModifyResponse {
        /// The channel.
        channel: u32,
        /// 0 for success.
        status: u32,
    },
    /// TL_CONNECT_RESULT: whether the guest gets a socket to this endpoint.
    SocketRefused {
        /// The endpoint.
        endpoint: Guid,
        /// An NTSTATUS; 0 for success.
        status: u32,
    },
    /// An unknown message type, or one that is not used here.
    Other(VmbusMessageType),
}

/// A message is shorter than its type says.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Malformed(pub VmbusMessageType);

impl HostMessage {
    /// Parses a message. Longer ones than needed are accepted: hosts pad.
    ///
    /// # Errors
    ///
    /// [`Malformed`] where it is too short.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let (header, _) =
            VmbusMessageHeader::read_from_prefix(bytes).map_err(|_| Malformed(VmbusMessageType(0)))?;
        let kind = header.message_type;
        let short = Malformed(kind);
        Ok(match kind {
            VmbusMessageType::OFFER_CHANNEL => Self::Offer(Offer::new(&read(bytes, short)?)),
            VmbusMessageType::RESCIND_CHANNEL_OFFER => {
                let VmbusChannelMessage { channel_id, .. } = read(bytes, short)?;
                Self::Rescind { channel: channel_id }
            }
            VmbusMessageType::ALL_OFFERS_DELIVERED => Self::AllOffersDelivered,
            VmbusMessageType::OPEN_CHANNEL_RESULT => {
                let VmbusOpenChannelResult { channel_id, open_id, status, .. } = read(bytes, short)?;
                Self::OpenResult { channel: channel_id, open_id, status }
            }
            VmbusMessageType::GPADL_CREATED => {
                let VmbusGpadlCreated { channel_id, gpadl_id, status, .. } = read(bytes, short)?;
                Self::GpadlCreated { channel: channel_id, gpadl: gpadl_id, status }
            }
            VmbusMessageType::TL_CONNECT_RESULT => {
                let VmbusTlConnectResult { endpoint_id, status, .. } = read(bytes, short)?;
                Self::SocketRefused { endpoint: Guid(endpoint_id), status }
            }
            VmbusMessageType::GPADL_TORNDOWN => {
                let VmbusGpadlTorndown { gpadl_id, .. } = read(bytes, short)?;
                Self::GpadlTorndown { gpadl: gpadl_id }
            }
            VmbusMessageType::VERSION_RESPONSE => Self::version_response(bytes, short)?,
            VmbusMessageType::UNLOAD_COMPLETE => Self::UnloadComplete,
            VmbusMessageType::MODIFY_CHANNEL_RESPONSE => {
                let VmbusModifyChannelResponse { channel_id, status, .. } = read(bytes, short)?;
                Self::ModifyResponse { channel: channel_id, status }
            }
            other => Self::Other(other),
        })
    }

    fn version_response(bytes: &[u8], short: Malformed) -> Result<Self, Malformed> {
        // Hosts before version 5.0 send the first ten bytes; what is missing is zero.
        let mut padded = [0; size_of::<VmbusVersionResponse2>()];
        let len = bytes.len().min(padded.len());
        if len <= size_of::<VmbusMessageHeader>() {
            return Err(short);
        }
        padded.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        let VmbusVersionResponse2 { base, feature_flags } = read(&padded, short)?;
        let VmbusVersionResponse {
            version_supported,
            connection_state,
            selected_version_or_connection_id,
            ..
        } = base;
        Ok(Self::VersionResponse {
            is_supported: version_supported != 0,
            connection_state: connection_state.0,
            connection_id: selected_version_or_connection_id,
            features: feature_flags,
        })
    }
}

fn read<T: FromBytes>(bytes: &[u8], short: Malformed) -> Result<T, Malformed> {
    T::read_from_prefix(bytes).map(|(value, _)| value).map_err(|_| short)
}

impl Offer {
    fn new(offer: &VmbusOfferChannel) -> Self {
        Self {
            interface: Guid(offer.interface_id),
            instance: Guid(offer.instance_id),
            channel: offer.channel_id,
            connection_id: offer.connection_id,
            subchannel: offer.subchannel_index,
            is_dedicated: offer.is_dedicated & 1 != 0,
            flags: offer.flags,
            mmio_megabytes: offer.mmio_megabytes,
            user_defined: offer.user_defined,
        }
    }
}
