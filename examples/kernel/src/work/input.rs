//! `input=SECONDS`: prints events of keyboards and mice.

use super::devices::Devices;
use crate::arch::time;
use crate::{platform, println};
use alloc::string::{String, ToString};
use core::time::Duration;
use paravirt_device::{Arm, Input, InputEvent, Key, Leds, Notify};

/// Prints events for `seconds` seconds, or until Escape is released.
pub fn run(devices: &mut Devices, seconds: u64) -> Result<(), String> {
    if devices.inputs.is_empty() {
        return Err("input: there is no input device".into());
    }
    let waker = platform::waker();
    let end = time::now().saturating_add(Duration::from_secs(seconds));
    for (i, input) in devices.inputs.iter_mut().enumerate() {
        input.device.register(&waker);
        let has_lights = input.device.set_leds(Leds::CAPS_LOCK).map_err(|fault| fault.to_string())?;
        println!("input={i} lights={has_lights}");
    }
    println!("input=begin seconds={seconds}");
    let mut is_over = false;
    while !is_over && time::now() < end {
        for (i, input) in devices.inputs.iter_mut().enumerate() {
            while let Some(event) = input.device.poll().map_err(|fault| fault.to_string())? {
                match event {
                    InputEvent::Key { key, is_pressed } => {
                        println!("input={i} key={} pressed={is_pressed}", key.0);
                        is_over |= key == Key::ESCAPE && !is_pressed;
                    }
                    InputEvent::Relative { axis, by } => println!("input={i} axis={axis:?} by={by}"),
                    InputEvent::Absolute { axis, at } => println!("input={i} axis={axis:?} at={at}"),
                    InputEvent::Sync => {}
                    other => println!("input={i} event=\"{other:?}\""),
                }
            }
        }
        if !is_over {
            platform::sleep(end, || {
                devices.inputs.iter_mut().fold(Arm::Armed, |all, input| all.and(input.device.arm()))
            });
        }
    }
    println!("input=end");
    Ok(())
}
