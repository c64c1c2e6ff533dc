//! What the kernel does: each part in a module of its own, in the order in which they run.

mod balloon;
mod bench;
pub mod devices;
mod disk_test;
mod entropy;
mod host;
mod idle;
mod list;
mod mount;
mod net;
pub mod options;
mod passed;

use alloc::string::String;
use devices::Devices;
use options::Options;

/// Does what `options` ask for. The first part that fails ends it.
pub fn run(devices: &mut Devices, options: &Options) -> Result<(), String> {
    if options.list {
        list::list(devices);
    }
    if options.passed {
        passed::open(devices)?;
    }
    if let Some(bytes) = options.entropy {
        entropy::read(devices, bytes)?;
    }
    if let Some(disk) = options.mount {
        mount::mount(devices, disk)?;
    }
    if let Some(disk) = options.test {
        disk_test::test(devices, disk, options)?;
    }
    net::run(devices, options)?;
    if options.bench {
        bench::bench(devices, options)?;
    }
    balloon::run(devices, options)?;
    if let Some(seconds) = options.idle {
        idle::idle(devices, seconds);
    }
    host::run(devices, options)?;
    Ok(())
}
