//! Hyper-V's keyboard: reads keys, and sets a light.
//!
//! Runs in process, against a model of the host: `cargo run -p paravirt-hv-input --example hv-keyboard`
#![forbid(unsafe_code)]

use hyperv_bindings::ic::KeyboardEventFlags;
use hyperv_bindings::vmbus::KEYBOARD;
use paravirt_device::{Input, InputEvent, Key, Leds};
use paravirt_hv_input::HvInput;
use paravirt_hyperv::Hypervisor;
use paravirt_testhost::{Guest, HvHost, InputHost};
use paravirt_vmbus::{ChannelOptions, Version, Vmbus};
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let keys = InputHost::keyboard();
    let guest = Guest::with(1, true);
    let (host, channel) = HvHost::with_device(&guest, KEYBOARD, keys.clone());

    let hypervisor = Hypervisor::open(&guest)?;
    let vmbus = Vmbus::connect(&hypervisor, Version::NEWEST)?;
    let mut offer = None;
    vmbus.offers(&mut |found| {
        if found.interface == KEYBOARD {
            offer = Some(*found);
        }
    });
    let offer = offer.ok_or("the host offers no keyboard")?;
    let mut keyboard = HvInput::open(&guest, &vmbus, &offer, &ChannelOptions::default())?;
    assert!(keyboard.info().has_keys);

    // Somebody at the host types Enter: a scan code of set 1 for the press, and one for the release.
    keys.keystroke(0x1c, 0);
    keys.keystroke(0x1c, KeyboardEventFlags::BREAK.bits());
    host.work(&guest, channel);

    let mut events = vec![];
    while let Some(event) = keyboard.poll()? {
        println!("{event:?}");
        events.push(event);
    }
    let enter = |is_pressed| InputEvent::Key { key: Key::ENTER, is_pressed };
    assert_eq!(events, [enter(true), InputEvent::Sync, enter(false), InputEvent::Sync]);

    assert!(keyboard.set_leds(Leds::CAPS_LOCK)?, "a keyboard has lights");
    // Bit 2 of the message is caps lock.
    assert_eq!(keys.leds(), Some(1 << 2));
    println!("caps lock is lit");
    Ok(())
}
