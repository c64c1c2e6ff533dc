//! The model of the bus: channel numbers, and memory that guests share.

use hyperv_bindings::Guid;
use hyperv_bindings::tlfs::{HV_EVENT_FLAGS, HV_SLOT_LEN, HvMessageType, HvPostMessageInput, HvStatus};
use hyperv_bindings::vmbus::{
    VMBUS_EVENT_CONNECTION, VMBUS_MESSAGE_CONNECTION, VMBUS_SINT, VmbusGpadlCreated, VmbusGpadlHeader,
    VmbusInitiateContact, VmbusMessageHeader, VmbusMessageType, VmbusVersion,
};
use paravirt_hyperv::Hypervisor;
use paravirt_platform::DmaSlice;
use paravirt_scsi::Options;
use paravirt_storvsc::{INTERFACE, StorController, StorOptions, StorTransport};
use paravirt_testhost::HostPacket;
use paravirt_testhost::{
    Bus, Controller, Echo, Guest, HvHost, HvOffer, Memory, OfferSettings, Packets, StorDrive, StorHost,
    VmbusDevice, set_event,
};
use paravirt_vmbus::{ChannelOptions, Version, Vmbus};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

const NOWHERE: Guid = Guid([0; 16]);

#[test]
fn channel_numbers_are_reused() {
    let guest = Guest::with(2, true);
    let host = HvHost::new(&guest, HvOffer::least());
    let storage = StorHost::new();
    storage.insert(0, StorDrive::memory(512, vec![0; 4096]));
    let settings = OfferSettings { interface: INTERFACE, ..OfferSettings::default() };
    host.add(&guest, settings, storage.clone());
    let hypervisor = Hypervisor::open(&guest).expect("a hypervisor");
    let vmbus = Vmbus::connect(&hypervisor, Version::NEWEST).expect("a connection");
    let primary = vmbus.find(&NOWHERE, 0).expect("an offer");
    // More subchannels than a SINT has event flags.
    for _ in 0..800 {
        let options = StorOptions::default().with_processors(2);
        let adapter = StorTransport::new(&guest, &vmbus, &primary, &options);
        let options = Options::new(4, 8);
        let controller =
            StorController::<Guest, DmaSlice<Guest>>::open(&guest, adapter, &options).expect("a controller");
        assert_eq!(controller.queues(), 4);
        let numbers = [0, 1, 2, 3].map(|index| host.channel(NOWHERE, index));
        assert_eq!(numbers, [1, 2, 3, 4].map(Some));
        drop(controller);
        while vmbus.poll().is_some() {}
    }
    // A channel that was not offered is removed at once.
    drop((vmbus, hypervisor));
    let second = host.add(&guest, OfferSettings { instance: Guid([1; 16]), ..settings }, Echo);
    host.rescind(&guest, second);
    assert!(!host.has(second));
    assert_eq!((host.violations(), storage.violations()), (vec![], vec![]));
}

/// A device that offers more and more subchannels.
struct Greedy;

impl VmbusDevice for Greedy {
    fn further(&mut self, _index: u16) -> Option<Box<dyn VmbusDevice>> {
        Some(Box::new(Echo))
    }
    fn packet(&mut self, _memory: &Memory, _packet: &HostPacket<'_>, _out: &mut dyn Packets) {}
    fn poll(&mut self, _memory: &Memory, out: &mut dyn Packets) {
        out.offer_further(500);
    }
}

#[test]
fn channels_are_limited_by_the_event_flags() {
    let guest = Guest::with(1, true);
    let host = HvHost::new(&guest, HvOffer::least());
    let primary = host.add(&guest, OfferSettings::default(), Greedy);
    let hypervisor = Hypervisor::open(&guest).expect("a hypervisor");
    let vmbus = Vmbus::connect(&hypervisor, Version::NEWEST).expect("a connection");
    let offer = vmbus.find(&NOWHERE, 0).expect("an offer");
    let channel = vmbus.open(&offer, &ChannelOptions::default()).expect("a channel");
    (0..5).for_each(|_| host.work(&guest, primary));
    assert!(host.has(HV_EVENT_FLAGS - 1) && !host.has(HV_EVENT_FLAGS));
    assert!(host.violations().contains(&"more channels than there are event flags".into()));
    drop((channel, vmbus, hypervisor));
}

#[test]
fn event_flags_of_a_sint_stay_in_its_slot() {
    let guest = Guest::new();
    let (memory, page) = (guest.memory(), 0x10_0000);
    for (flag, is_set) in [(HV_EVENT_FLAGS - 1, true), (HV_EVENT_FLAGS, false), (u32::MAX, false)] {
        assert_eq!(set_event(memory, page, VMBUS_SINT, flag), is_set);
    }
    let slots = memory.read(page, 4096);
    let last = ((VMBUS_SINT + 1) * HV_SLOT_LEN - 1) as usize;
    let written: Vec<(usize, u8)> = slots.into_iter().enumerate().filter(|(_, byte)| *byte != 0).collect();
    assert_eq!((written, memory.strays()), (vec![(last, 0x80)], 0));
}

/// SynICs that record what is sent.
#[derive(Default)]
struct Kept {
    messages: Vec<Vec<u8>>,
    flags: Vec<u32>,
}

impl Controller for Kept {
    fn is_on(&self, _vp: u32) -> bool {
        true
    }
    fn send(&mut self, _vp: u32, payload: &[u8]) {
        self.messages.push(payload.to_vec());
    }
    fn set_flag(&mut self, _vp: u32, flag: u32) {
        self.flags.push(flag);
    }
}

/// Posts a message, followed by `rest`.
fn post<T: IntoBytes + Immutable>(bus: &mut Bus, kept: &mut Kept, message: &T, rest: &[u64]) {
    let bytes = [message.as_bytes(), rest.as_bytes()].concat();
    let mut input = HvPostMessageInput::new_zeroed();
    (input.connection_id, input.message_type) = (VMBUS_MESSAGE_CONNECTION, HvMessageType::CHANNEL);
    input.payload_size = bytes.len() as u32;
    input.payload[..bytes.len()].copy_from_slice(&bytes);
    assert_eq!(bus.post(kept, &input), HvStatus::SUCCESS);
}

/// A connected bus of a host before VMBus 4.0 with a device, and the interrupt page at `page`.
fn connected(guest: &Guest, page: u64) -> (Bus, Kept) {
    let (mut bus, mut kept) = (Bus::new(guest.memory().clone()), Kept::default());
    bus.add(&mut kept, OfferSettings::default(), Box::new(Echo));
    let mut contact = VmbusInitiateContact::new_zeroed();
    contact.header.message_type = VmbusMessageType::INITIATE_CONTACT;
    contact.version = VmbusVersion::WIN7;
    contact.interrupt_page_or_target = page.to_le_bytes();
    post(&mut bus, &mut kept, &contact, &[]);
    assert_eq!(std::mem::take(&mut kept.messages).len(), 1);
    (bus, kept)
}

#[test]
fn page_numbers_out_of_range_are_refused() {
    let guest = Guest::new();
    for (frames, status) in [([0x100, (1 << 52) - 1], 0), ([0x100, 1 << 52], 1), ([u64::MAX; 2], 1)] {
        let (mut bus, mut kept) = connected(&guest, 0);
        let gpadl = VmbusGpadlHeader {
            header: VmbusMessageHeader { message_type: VmbusMessageType::GPADL_HEADER, reserved: 0 },
            channel_id: 1,
            gpadl_id: 5,
            range_buffer_len: 24,
            range_count: 1,
            byte_count: 8192,
            byte_offset: 0,
        };
        post(&mut bus, &mut kept, &gpadl, &frames);
        let (answer, _) = VmbusGpadlCreated::read_from_prefix(&kept.messages[0]).expect("an answer");
        assert_eq!(answer.header.message_type, VmbusMessageType::GPADL_CREATED);
        assert_eq!((answer.status != 0, bus.violations().len()), (status != 0, status));
    }
}

#[test]
fn an_interrupt_page_out_of_range_is_not_read() {
    let guest = Guest::new();
    for page in [u64::MAX, u64::MAX - 4095, u64::MAX - 2047] {
        let (mut bus, mut kept) = connected(&guest, page);
        assert_eq!(bus.signal(&mut kept, VMBUS_EVENT_CONNECTION), HvStatus::SUCCESS);
        assert!(kept.flags.is_empty());
    }
}
