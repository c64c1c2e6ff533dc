//! The drivers of the synthetic keyboard and mouse against our models.

use hyperv_bindings::ic::KeyboardEventFlags;
use hyperv_bindings::vmbus;
use paravirt_device::{Arm, Axis, Fault, Input, InputEvent, InputInfo, Key, Leds, Notify};
use paravirt_hv_input::{HvInput, OpenError};
use paravirt_hyperv::Hypervisor;
use paravirt_testhost::{Guest, HvHost, HvOffer, InputHost, OfferSettings};
use paravirt_vmbus::{ChannelOptions, Guid, Version, Vmbus};

struct Bench {
    guest: Guest,
    host: HvHost,
    device: InputHost,
    channel: u32,
    vmbus: Vmbus<Guest>,
}

impl Bench {
    fn new(interface: Guid, device: InputHost) -> Self {
        let guest = Guest::with(1, true);
        let host = HvHost::new(&guest, HvOffer::least());
        let is_pipe = interface == vmbus::MOUSE;
        let settings = OfferSettings { interface, is_pipe, ..OfferSettings::default() };
        let channel = host.add(&guest, settings, device.clone());
        let hypervisor = Hypervisor::open(&guest).expect("a hypervisor");
        let vmbus = Vmbus::connect(&hypervisor, Version::NEWEST).expect("a connection");
        Self { guest, host, device, channel, vmbus }
    }

    fn open(&self) -> Result<HvInput<Guest>, OpenError> {
        let offer = self.vmbus.find(&Guid::default(), 0).expect("an offer");
        HvInput::open(&self.guest, &self.vmbus, &offer, &ChannelOptions::default())
    }

    fn work(&self) {
        self.host.work(&self.guest, self.channel);
    }

    fn events(&self, input: &mut HvInput<Guest>) -> Vec<InputEvent> {
        self.work();
        std::iter::from_fn(|| input.poll().expect("no fault")).collect()
    }
}

#[test]
fn keystrokes_are_events_and_leds_are_set() {
    let bench = Bench::new(vmbus::KEYBOARD, InputHost::keyboard());
    let mut keyboard = bench.open().expect("open");
    let mut info = InputInfo::default();
    info.has_keys = true;
    assert_eq!(keyboard.info(), info);
    assert_eq!(keyboard.arm(), Arm::Armed);
    let up = KeyboardEventFlags::BREAK.bits();
    bench.device.keystroke(0x1e, 0);
    bench.device.keystroke(0x1e, up);
    bench.device.keystroke(0x48, KeyboardEventFlags::E0.bits());
    let key = |key, is_pressed| InputEvent::Key { key, is_pressed };
    let expected = [
        key(Key(30), true),
        InputEvent::Sync,
        key(Key(30), false),
        InputEvent::Sync,
        key(Key::UP, true),
        InputEvent::Sync,
    ];
    assert_eq!(bench.events(&mut keyboard), expected);
    assert_eq!(keyboard.set_leds(Leds::CAPS_LOCK | Leds::SCROLL_LOCK), Ok(true));
    assert_eq!(bench.device.leds(), Some(5));
    bench.host.rescind(&bench.guest, bench.channel);
    // The first poll finds the message, the next one that the channel was rescinded.
    let _ = keyboard.poll();
    assert_eq!((keyboard.poll(), keyboard.set_leds(Leds::NONE)), (Err(Fault::Removed), Err(Fault::Removed)));
    assert_eq!(bench.device.violations(), Vec::<String>::new());
}

#[test]
fn mouse_reports_are_events_of_what_changed() {
    let bench = Bench::new(vmbus::MOUSE, InputHost::mouse());
    let mut mouse = bench.open().expect("open");
    let mut info = InputInfo::default();
    (info.has_buttons, info.is_absolute) = (true, true);
    assert_eq!(mouse.info(), info);
    bench.work();
    assert!(bench.device.is_ready());
    bench.device.report(1, 100, 200, 0);
    bench.device.report(0, 100, 200, -2);
    let absolute = |axis, at| InputEvent::Absolute { axis, at };
    let left = |is_pressed| InputEvent::Key { key: Key::BUTTON_LEFT, is_pressed };
    let expected = [
        absolute(Axis::X, 100),
        absolute(Axis::Y, 200),
        left(true),
        InputEvent::Sync,
        InputEvent::Relative { axis: Axis::Wheel, by: -2 },
        left(false),
        InputEvent::Sync,
    ];
    assert_eq!(bench.events(&mut mouse), expected);
    assert_eq!(mouse.set_leds(Leds::NUM_LOCK), Ok(false));
    assert_eq!(bench.device.violations(), Vec::<String>::new());
}

#[test]
fn a_refused_version_is_an_open_error() {
    for (interface, device) in [(vmbus::KEYBOARD, InputHost::keyboard()), (vmbus::MOUSE, InputHost::mouse())]
    {
        device.refuse();
        let bench = Bench::new(interface, device);
        assert_eq!(bench.open().err(), Some(OpenError::Version));
    }
    let bench = Bench::new(vmbus::SHUTDOWN, InputHost::keyboard());
    assert_eq!(bench.open().err(), Some(OpenError::Class));
}

#[test]
fn a_malformed_message_is_ignored() {
    let bench = Bench::new(vmbus::KEYBOARD, InputHost::keyboard());
    let mut keyboard = bench.open().expect("open");
    bench.device.keystroke(0x1e, 0);
    bench.device.send(&[3, 0, 0]);
    bench.device.keystroke(0x1f, 0);
    bench.work();
    for key in [Key(30), Key(31)] {
        assert_eq!(keyboard.poll(), Ok(Some(InputEvent::Key { key, is_pressed: true })));
        assert_eq!(keyboard.poll(), Ok(Some(InputEvent::Sync)));
    }
    assert_eq!((keyboard.poll(), keyboard.malformed_messages()), (Ok(None), 1));
}

/// A host that sends nothing but what has no events does not hold the caller.
#[test]
fn a_call_reads_a_bounded_number_of_messages() {
    let bench = Bench::new(vmbus::KEYBOARD, InputHost::keyboard());
    let mut keyboard = bench.open().expect("open");
    (0..100).for_each(|_| bench.device.send(&[3, 0, 0]));
    bench.device.keystroke(0x1e, 0);
    bench.work();
    assert_eq!((keyboard.poll(), keyboard.malformed_messages()), (Ok(None), 64));
    assert_eq!(keyboard.arm(), Arm::Pending);
    assert_eq!(keyboard.poll(), Ok(Some(InputEvent::Key { key: Key(30), is_pressed: true })));
}

/// Each byte of the messages of a mouse and a keyboard is changed in three ways: the result is an event, nothing or a fault.
#[test]
fn input_messages_with_a_changed_byte_are_survived() {
    let stroke = [3u8, 0, 0, 0, 0x1e, 0, 0, 0, 0, 0, 0, 0].to_vec();
    let report = [4u8, 0, 0, 0, 7, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7].to_vec();
    for (interface, message) in [(vmbus::KEYBOARD, stroke), (vmbus::MOUSE, report)] {
        for at in 0..message.len() {
            for change in [0x01, 0x80, 0xff] {
                let is_mouse = interface == vmbus::MOUSE;
                let device = if is_mouse { InputHost::mouse() } else { InputHost::keyboard() };
                let bench = Bench::new(interface, device);
                let mut input = bench.open().expect("open");
                let mut bytes = message.clone();
                bytes[at] ^= change;
                bench.work();
                bench.device.send(&bytes);
                bench.work();
                let mut count = 0;
                while let Ok(Some(_)) = input.poll() {
                    count += 1;
                    assert!(count < 20, "too many events");
                }
            }
        }
    }
}
