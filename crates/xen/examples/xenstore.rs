//! Xenstore: reads a node, changes it in a transaction, and watches the host change it.
//!
//! Runs in process, against a model of the host: `cargo run -p paravirt-xen --example xenstore`
#![forbid(unsafe_code)]

use paravirt_device::Clock;
use paravirt_testhost::{Guest, XenHost};
use paravirt_xen::{Hypervisor, Store, Watch, XenClock};
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let guest = Guest::with(1, true);
    let host = XenHost::new(&guest);
    host.set("memory/target", "524288");

    let hypervisor = Hypervisor::open(&guest)?;
    let (major, minor) = hypervisor.detected().version;
    let time = XenClock::open(&hypervisor).ok_or("no clock")?.now();
    println!("Xen {major}.{minor}, up for {} ns", time.as_nanos());

    let store = Store::open(&hypervisor)?;
    let target = store.number(format_args!("memory/target"))?.ok_or("no target")?;
    println!("the host wants this guest to have {target} KiB");

    let watch = Watch::new(&store, format_args!("memory/target"))?;
    // A new watch is due at once.
    assert!(watch.take());
    host.set("memory/target", "262144");
    store.poll();
    assert!(watch.take() && !watch.take());
    println!("it has changed to {:?}", store.number(format_args!("memory/target"))?);
    Ok(())
}
