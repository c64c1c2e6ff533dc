//! Keyboards, mice and tablets: QEMU's virtio devices, with input events sent by QMP.

use super::{Bench, Outcome, must_contain, must_end};
use crate::qmp::Qmp;
use anyhow::Result;
use serde_json::{Value, json};

pub const CASES: &[(&str, super::Special)] = &[("virtio input: a keyboard, a mouse and a tablet", usual)];

fn key(code: &str, is_down: bool) -> Value {
    json!({ "type": "key", "data": { "down": is_down, "key": { "type": "qcode", "data": code } } })
}

fn button(button: &str, is_down: bool) -> Value {
    json!({ "type": "btn", "data": { "down": is_down, "button": button } })
}

fn axis(kind: &str, axis: &str, value: i32) -> Value {
    json!({ "type": kind, "data": { "axis": axis, "value": value } })
}

fn usual(bench: &Bench) -> Result<Outcome> {
    for (name, props) in [("split", ""), ("packed", ",packed=on")] {
        let socket = bench.folder.join(format!("input-{name}-qmp"));
        let mut machine = bench.machine("q35", 1);
        for device in ["keyboard", "mouse", "tablet"] {
            machine.add(&format!("-device virtio-{device}-pci{props}"));
        }
        machine.qmp = Some(socket.clone());
        machine.command_line = "list input=60 reconnect=3".into();
        let mut running = machine.start()?;
        running.wait_for("input=begin")?;
        let mut qmp = Qmp::connect(&socket)?;
        let mut send = |events: Value| qmp.execute("input-send-event", json!({ "events": events }));
        send(json!([key("a", true), key("a", false), key("up", true), key("up", false)]))?;
        send(json!([axis("rel", "x", 5), axis("rel", "y", -7), button("left", true)]))?;
        send(json!([button("left", false)]))?;
        send(json!([axis("abs", "x", 32767), axis("abs", "y", 16384)]))?;
        // More events than the device has buffers.
        for _ in 0..100 {
            send(json!([key("b", true), key("b", false)]))?;
        }
        send(json!([key("esc", true), key("esc", false)]))?;
        let transcript = running.finish()?;
        must_end(&transcript, 0)?;
        for text in [
            "keys=true buttons=false relative=false absolute=false",
            "keys=false buttons=true relative=true absolute=false",
            "keys=false buttons=true relative=false absolute=true",
            "input=0 lights=true",
            "input=1 lights=false",
            "input=0 key=30 pressed=true",
            "input=0 key=30 pressed=false",
            "input=0 key=103 pressed=false",
            "input=1 axis=X by=5",
            "input=1 axis=Y by=-7",
            "key=272 pressed=true",
            "key=272 pressed=false",
            "input=2 axis=X at=32767",
            "input=2 axis=Y at=16384",
            "input=0 key=1 pressed=false",
            "different=0 lost_pages=0",
        ] {
            must_contain(&transcript, text)?;
        }
    }
    Ok(Outcome::Passed)
}
