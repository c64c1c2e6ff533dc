//! Network cards.

use crate::handle::{Handle, Waited, handle, waker};
use crate::platform::Kernel;
use crate::{
    Buffer, paravirt_buffer, paravirt_notify, paravirt_status, paravirt_status as Status, paravirt_waker, put,
};
use core::ffi::c_void;
use paravirt::{Net, NetQ};
use paravirt_device::{
    ChecksumRange, Link, MacAddr, NetDevice, NetEvent, NetQueue, Offloads, ReceiveMode, RxChecksum,
    SegmentKind, Segmentation, TxMeta, VlanTag,
};

/// A network card.
#[derive(Debug)]
pub struct paravirt_net {
    _private: (),
}
handle!(paravirt_net: (Kernel, Net<Kernel, Buffer>));

/// A pair of a receive and a transmit queue of a card.
#[derive(Debug)]
pub struct paravirt_net_queue {
    _private: (),
}
handle!(paravirt_net_queue: Waited<NetQ<Kernel, Buffer>>);

/// A card that fills in checksums of sent frames.
pub const PARAVIRT_OFFLOAD_TX_CHECKSUM: u32 = 1 << 0;
/// A card that segments TCP over IPv4.
pub const PARAVIRT_OFFLOAD_TX_TCP4: u32 = 1 << 1;
/// A card that segments TCP over IPv6.
pub const PARAVIRT_OFFLOAD_TX_TCP6: u32 = 1 << 2;
/// A card that segments UDP.
pub const PARAVIRT_OFFLOAD_TX_UDP: u32 = 1 << 3;
/// A card that reports on checksums of received frames.
pub const PARAVIRT_OFFLOAD_RX_CHECKSUM: u32 = 1 << 8;
/// A card that coalesces TCP over IPv4.
pub const PARAVIRT_OFFLOAD_RX_TCP4: u32 = 1 << 9;
/// A card that coalesces TCP over IPv6.
pub const PARAVIRT_OFFLOAD_RX_TCP6: u32 = 1 << 10;
/// A card that coalesces UDP.
pub const PARAVIRT_OFFLOAD_RX_UDP: u32 = 1 << 11;

const _: () = assert!(
    Offloads::TX_CHECKSUM.bits() == PARAVIRT_OFFLOAD_TX_CHECKSUM
        && Offloads::TX_TCP4.bits() == PARAVIRT_OFFLOAD_TX_TCP4
        && Offloads::TX_TCP6.bits() == PARAVIRT_OFFLOAD_TX_TCP6
        && Offloads::TX_UDP.bits() == PARAVIRT_OFFLOAD_TX_UDP
        && Offloads::RX_CHECKSUM.bits() == PARAVIRT_OFFLOAD_RX_CHECKSUM
        && Offloads::RX_TCP4.bits() == PARAVIRT_OFFLOAD_RX_TCP4
        && Offloads::RX_TCP6.bits() == PARAVIRT_OFFLOAD_RX_TCP6
        && Offloads::RX_UDP.bits() == PARAVIRT_OFFLOAD_RX_UDP
);

/// What a card is.
#[repr(C)]
#[derive(Copy, Clone, Debug)]
pub struct paravirt_net_info {
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// The maximum length of the payload of a frame in bytes.
    pub mtu: u16,
    /// The number of queue pairs that can be taken.
    pub queues: u16,
    /// The number of frames in flight in each direction.
    pub depth: u16,
    /// `PARAVIRT_OFFLOAD_` bits.
    pub offloads: u32,
    /// The maximum length of a frame to be segmented in bytes.
    pub max_segmented: u32,
    /// The speed in Mbit/s; 0 if it is not known.
    pub speed: u32,
}

/// An event of a card.
#[repr(C)]
#[derive(Copy, Clone, Debug)]
pub enum paravirt_net_event_kind {
    /// The link went up or down.
    Link,
    /// The address changed.
    Mac,
    /// The host asks the guest to announce its addresses; answer by `paravirt_net_announced`.
    Announce,
    /// A virtual function of the card was attached or detached.
    VirtualFunction,
    /// The device is out of service.
    Faulted,
}

/// An event of a card.
#[repr(C)]
#[derive(Copy, Clone, Debug)]
pub struct paravirt_net_event {
    /// What happened.
    pub kind: paravirt_net_event_kind,
    /// Of a link: whether it is up. Of a virtual function: whether it is attached.
    pub is_up: bool,
    /// Of an address: the new one.
    pub mac: [u8; 6],
    /// Of a virtual function that is attached: its serial number.
    pub serial: u32,
    /// Of a fault: which.
    pub fault: paravirt_status,
}

/// Protocols of a segmented frame, for `paravirt_net_meta.segment_kind`.
#[repr(C)]
#[derive(Copy, Clone, Debug)]
pub enum paravirt_segment_kind {
    /// Not segmented.
    None,
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP.
    Udp,
}

/// States of a checksum, for `paravirt_net_meta.checksum`.
#[repr(C)]
#[derive(Copy, Clone, Debug)]
pub enum paravirt_checksum {
    /// Received: not verified. Sent: complete.
    None,
    /// Received: verified by the host.
    Valid,
    /// The field holds the sum of the pseudo-header only. Sent: the host completes it. Received: the data are valid.
    Partial,
}

/// The metadata of a frame. All zeroes is a frame without offloads.
#[repr(C)]
#[derive(Copy, Clone, Debug, Default)]
pub struct paravirt_net_meta {
    /// A `paravirt_checksum`.
    pub checksum: u32,
    /// Of a partial checksum: the offset in bytes at which the sum begins, and that of the field from there.
    pub checksum_start: u16,
    /// See `checksum_start`.
    pub checksum_offset: u16,
    /// A `paravirt_segment_kind`. To send, it needs a partial checksum.
    pub segment_kind: u32,
    /// The payload of each segment in bytes.
    pub segment_size: u16,
    /// The length of the headers that each segment repeats in bytes.
    pub headers: u16,
    /// Whether there is a VLAN tag beside the frame, and its control information.
    pub has_vlan: bool,
    /// See `has_vlan`.
    pub vlan: u16,
}

impl paravirt_net_meta {
    fn to_send(self) -> Result<TxMeta, Status> {
        let mut meta = TxMeta::new();
        if self.checksum == paravirt_checksum::Partial as u32 {
            meta = meta
                .with_checksum(ChecksumRange { start: self.checksum_start, offset: self.checksum_offset });
        } else if self.checksum != paravirt_checksum::None as u32 {
            return Err(Status::Invalid);
        }
        let kind = match self.segment_kind {
            kind if kind == paravirt_segment_kind::None as u32 => None,
            kind if kind == paravirt_segment_kind::Tcp4 as u32 => Some(SegmentKind::Tcp4),
            kind if kind == paravirt_segment_kind::Tcp6 as u32 => Some(SegmentKind::Tcp6),
            kind if kind == paravirt_segment_kind::Udp as u32 => Some(SegmentKind::Udp),
            _ => return Err(Status::Invalid),
        };
        if let Some(kind) = kind {
            let (size, headers) = (self.segment_size, self.headers);
            meta = meta.with_segmentation(Segmentation { kind, size, headers });
        }
        Ok(if self.has_vlan { meta.with_vlan(VlanTag(self.vlan)) } else { meta })
    }
}

/// A received frame.
#[repr(C)]
#[derive(Copy, Clone, Debug)]
pub struct paravirt_rx_frame {
    /// The length in bytes from the Ethernet header on, without the frame check sequence.
    pub len: usize,
    /// The number of segments in memory, at least 1.
    pub segments: u16,
    /// The metadata.
    pub meta: paravirt_net_meta,
}

/// A completed send of a buffer.
#[repr(C)]
#[derive(Copy, Clone, Debug)]
pub struct paravirt_sent {
    /// The tag of the send.
    pub tag: u64,
    /// The owner of the buffer, which belongs to the kernel again.
    pub owner: *mut c_void,
    /// Whether the buffer was returned: if not, the host may still read it.
    pub is_returned: bool,
    /// Whether the host accepted the frame.
    pub result: paravirt_status,
}

/// Which frames a card receives.
#[repr(C)]
#[derive(Copy, Clone, Debug)]
pub enum paravirt_receive_mode {
    /// Those to its address, to multicast addresses that were set, and to all.
    Filtered,
    /// Those and all multicast frames.
    AllMulticast,
    /// All frames.
    Promiscuous,
}

/// # Safety
///
/// The contract of the crate.
unsafe fn card<'a>(card: *mut paravirt_net) -> &'a mut Net<Kernel, Buffer> {
    // SAFETY: by the contract of this function.
    unsafe { &mut paravirt_net::get(card).1 }
}

/// # Safety
///
/// The contract of the crate.
unsafe fn pair<'a>(queue: *mut paravirt_net_queue) -> &'a mut NetQ<Kernel, Buffer> {
    // SAFETY: by the contract of this function.
    unsafe { &mut paravirt_net_queue::get(queue).value }
}

/// Writes what the card is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_net_get_info(card: *mut paravirt_net, out: *mut paravirt_net_info) {
    // SAFETY: the contract of the crate.
    let info = unsafe { self::card(card) }.info();
    let value = paravirt_net_info {
        mac: info.mac.0,
        mtu: info.mtu,
        queues: info.queues,
        depth: info.depth,
        offloads: info.offloads.bits(),
        max_segmented: info.max_segmented,
        speed: info.speed.unwrap_or(0),
    };
    // SAFETY: the contract of the crate.
    unsafe { out.write(value) }
}

/// Returns whether the link is up.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_net_is_up(card: *mut paravirt_net) -> bool {
    // SAFETY: the contract of the crate.
    unsafe { self::card(card) }.link() == Link::Up
}

/// Takes queue pair `index`; null if it was taken, if there is none, or no memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_net_take_queue(
    card: *mut paravirt_net,
    index: u16,
) -> *mut paravirt_net_queue {
    // SAFETY: the contract of the crate.
    let (kernel, card) = unsafe { paravirt_net::get(card) };
    match card.take_queue(index) {
        Some(queue) => paravirt_net_queue::create(*kernel, Waited::new(queue)),
        None => core::ptr::null_mut(),
    }
}

/// Writes the next event of the card; `PARAVIRT_STATUS_EMPTY` if there is none. May wait for the host.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_net_poll_event(
    card: *mut paravirt_net,
    out: *mut paravirt_net_event,
) -> paravirt_status {
    use paravirt_net_event_kind as Kind;
    // SAFETY: the contract of the crate.
    let event = unsafe { self::card(card) }.poll_event();
    let none =
        paravirt_net_event { kind: Kind::Faulted, is_up: false, mac: [0; 6], serial: 0, fault: Status::Ok };
    let event = event.map(|event| match event {
        NetEvent::Link(link) => paravirt_net_event { kind: Kind::Link, is_up: link == Link::Up, ..none },
        NetEvent::Mac(mac) => paravirt_net_event { kind: Kind::Mac, mac: mac.0, ..none },
        NetEvent::Announce => paravirt_net_event { kind: Kind::Announce, ..none },
        NetEvent::VirtualFunction { serial } => paravirt_net_event {
            kind: Kind::VirtualFunction,
            is_up: serial.is_some(),
            serial: serial.unwrap_or(0),
            ..none
        },
        NetEvent::Faulted(fault) => paravirt_net_event { fault: fault.into(), ..none },
        _ => paravirt_net_event { fault: Status::Other, ..none },
    });
    // SAFETY: the contract of the crate.
    unsafe { put(Ok::<_, Status>(event), out) }
}

/// Registers the waker for events of the card.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_net_register(card: *mut paravirt_net, waker: *const paravirt_waker) {
    // SAFETY: the contract of the crate.
    unsafe { self::card(card).register(&self::waker(waker)) }
}

/// Uses the first `queues` queue pairs from now on; one at first.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_net_set_active_queues(
    card: *mut paravirt_net,
    queues: u16,
) -> paravirt_status {
    // SAFETY: the contract of the crate.
    unsafe { self::card(card) }.set_active_queues(queues).into()
}

/// Chooses which frames are received: `mode` is a `paravirt_receive_mode`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_net_set_receive_mode(
    card: *mut paravirt_net,
    mode: u32,
) -> paravirt_status {
    let mode = match mode {
        mode if mode == paravirt_receive_mode::Filtered as u32 => ReceiveMode::Filtered,
        mode if mode == paravirt_receive_mode::AllMulticast as u32 => ReceiveMode::AllMulticast,
        mode if mode == paravirt_receive_mode::Promiscuous as u32 => ReceiveMode::Promiscuous,
        _ => return Status::Invalid,
    };
    // SAFETY: the contract of the crate.
    unsafe { self::card(card) }.set_receive_mode(mode).into()
}

/// Sets the multicast addresses to receive: `count` addresses of six bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_net_set_multicast(
    card: *mut paravirt_net,
    addresses: *const [u8; 6],
    count: usize,
) -> paravirt_status {
    const _: () = assert!(size_of::<MacAddr>() == 6 && align_of::<MacAddr>() == 1);
    let addresses: &[MacAddr] = match count {
        0 => &[],
        // SAFETY: the contract of the crate; an address is six bytes.
        _ => unsafe { core::slice::from_raw_parts(addresses.cast(), count) },
    };
    // SAFETY: the contract of the crate.
    unsafe { self::card(card) }.set_multicast(addresses).into()
}

/// Sets the address of the card.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_net_set_mac(
    card: *mut paravirt_net,
    mac: *const [u8; 6],
) -> paravirt_status {
    // SAFETY: the contract of the crate.
    unsafe { self::card(card).set_mac(MacAddr(*mac)) }.into()
}

/// Sets which of the offloads of received frames are on: `PARAVIRT_OFFLOAD_` bits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_net_set_offloads(
    card: *mut paravirt_net,
    offloads: u32,
) -> paravirt_status {
    let Some(offloads) = Offloads::from_bits(offloads) else { return Status::Invalid };
    // SAFETY: the contract of the crate.
    unsafe { self::card(card) }.set_offloads(offloads).into()
}

/// Tells the host that the guest has announced its addresses.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_net_announced(card: *mut paravirt_net) -> paravirt_status {
    // SAFETY: the contract of the crate.
    unsafe { self::card(card) }.announced().into()
}

/// Closes the card; null is permitted.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_net_close(card: *mut paravirt_net) {
    // SAFETY: the contract of the crate.
    unsafe { paravirt_net::close(card) }
}

/// Receives frames and collects completed sends: a bounded amount of work.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_net_queue_poll(queue: *mut paravirt_net_queue) -> paravirt_status {
    // SAFETY: the contract of the crate.
    unsafe { pair(queue) }.poll().into()
}

/// Writes the oldest received frame, until `paravirt_net_queue_pop`; `PARAVIRT_STATUS_EMPTY` if there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_net_queue_front(
    queue: *mut paravirt_net_queue,
    out: *mut paravirt_rx_frame,
) -> paravirt_status {
    // SAFETY: the contract of the crate.
    let (rx, _) = unsafe { pair(queue) }.split();
    let frame = rx.front().map(|frame| {
        let mut meta = paravirt_net_meta::default();
        match frame.meta.checksum {
            RxChecksum::Valid => meta.checksum = paravirt_checksum::Valid as u32,
            RxChecksum::Partial(range) => {
                meta.checksum = paravirt_checksum::Partial as u32;
                (meta.checksum_start, meta.checksum_offset) = (range.start, range.offset);
            }
            _ => {}
        }
        if let Some(segmentation) = frame.meta.segmentation {
            meta.segment_kind = match segmentation.kind {
                SegmentKind::Tcp4 => paravirt_segment_kind::Tcp4,
                SegmentKind::Tcp6 => paravirt_segment_kind::Tcp6,
                _ => paravirt_segment_kind::Udp,
            } as u32;
            (meta.segment_size, meta.headers) = (segmentation.size, segmentation.headers);
        }
        if let Some(VlanTag(tag)) = frame.meta.vlan {
            (meta.has_vlan, meta.vlan) = (true, tag);
        }
        paravirt_rx_frame { len: frame.len, segments: frame.segments, meta }
    });
    // SAFETY: the contract of the crate.
    unsafe { put(Ok::<_, Status>(frame), out) }
}

/// Returns segment `index` of the oldest frame, and writes its length; null if there is none. The bytes are the kernel's to read and
/// write until `paravirt_net_queue_pop`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_net_queue_segment(
    queue: *mut paravirt_net_queue,
    index: u16,
    len: *mut usize,
) -> *mut u8 {
    // SAFETY: the contract of the crate.
    let (rx, _) = unsafe { pair(queue) }.split();
    let Some(bytes) = rx.segment(index) else { return core::ptr::null_mut() };
    // SAFETY: the contract of the crate.
    unsafe { len.write(bytes.len()) };
    bytes.as_mut_ptr()
}

/// Returns the memory of the oldest frame to the driver.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_net_queue_pop(queue: *mut paravirt_net_queue) {
    // SAFETY: the contract of the crate.
    unsafe { pair(queue) }.split().0.pop();
}

/// Reserves a slot for a frame of `len` bytes, and returns it; null if none is free now, or the frame is too long. Further calls keep the
/// reservation, until `paravirt_net_queue_commit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_net_queue_reserve(queue: *mut paravirt_net_queue, len: usize) -> *mut u8 {
    // SAFETY: the contract of the crate.
    let (_, tx) = unsafe { pair(queue) }.split();
    if tx.reserve(len) { tx.slot().as_mut_ptr() } else { core::ptr::null_mut() }
}

/// Sends the first `len` bytes of the reserved slot. `meta` may be null for a frame without offloads.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_net_queue_commit(
    queue: *mut paravirt_net_queue,
    len: usize,
    meta: *const paravirt_net_meta,
) -> paravirt_status {
    // SAFETY: the contract of the crate.
    let (tx, meta) = unsafe { (pair(queue).split().1, meta.as_ref().copied()) };
    match meta.unwrap_or_default().to_send() {
        Ok(meta) => tx.commit(len, meta).into(),
        Err(status) => status,
    }
}

/// Sends a frame from the kernel's buffer, without a copy; `paravirt_net_queue_sent` returns it. If the result is not
/// `PARAVIRT_STATUS_OK`, the buffer still belongs to the kernel.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_net_queue_send(
    queue: *mut paravirt_net_queue,
    tag: u64,
    frame: *const paravirt_buffer,
    meta: *const paravirt_net_meta,
) -> paravirt_status {
    // SAFETY: the contract of the crate.
    let (tx, frame, meta) = unsafe { (pair(queue).split().1, Buffer::new(*frame), meta.as_ref().copied()) };
    match meta.unwrap_or_default().to_send() {
        Ok(meta) => tx.send(tag, frame, meta).map_err(|refused| refused.reason).into(),
        Err(status) => status,
    }
}

/// Writes the next completed send of a buffer; `PARAVIRT_STATUS_EMPTY` if there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_net_queue_sent(
    queue: *mut paravirt_net_queue,
    out: *mut paravirt_sent,
) -> paravirt_status {
    // SAFETY: the contract of the crate.
    let (_, tx) = unsafe { pair(queue) }.split();
    let sent = tx.sent().map(|sent| paravirt_sent {
        tag: sent.tag,
        is_returned: sent.buffer.is_some(),
        owner: sent.buffer.map_or(core::ptr::null_mut(), |buffer| buffer.owner()),
        result: sent.result.into(),
    });
    // SAFETY: the contract of the crate.
    unsafe { put(Ok::<_, Status>(sent), out) }
}

/// Notifies the host of sent frames, unless it has suppressed notifications: once for a batch.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_net_queue_kick(queue: *mut paravirt_net_queue) {
    // SAFETY: the contract of the crate.
    unsafe { pair(queue) }.split().1.kick();
}

/// Takes back what is in flight: `paravirt_net_queue_sent` returns it as aborted.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_net_queue_reset(queue: *mut paravirt_net_queue) -> paravirt_status {
    // SAFETY: the contract of the crate.
    unsafe { pair(queue) }.reset().into()
}

/// Returns what a task waits for frames by.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_net_queue_notify(queue: *mut paravirt_net_queue) -> *mut paravirt_notify {
    // SAFETY: the contract of the crate.
    unsafe { paravirt_net_queue::notify(queue) }
}

/// Closes the queue pair; null is permitted. As for a queue of a disk, buffers in flight are not returned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_net_queue_close(queue: *mut paravirt_net_queue) {
    // SAFETY: the contract of the crate.
    unsafe { paravirt_net_queue::close(queue) }
}
