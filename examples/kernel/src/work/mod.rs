//! The parts of the kernel's work, each in its own module, and the order in which they run.

mod agent;
mod balloon;
mod bench;
pub mod devices;
mod disk_test;
mod entropy;
mod host;
mod idle;
mod input;
mod list;
mod load;
mod mount;
mod net;
pub mod options;
mod passthrough;
mod socket;

use crate::smp;
use alloc::string::String;
use devices::Devices;
use options::Options;

/// Runs the parts that `options` select. The first error ends the run.
pub fn run(devices: &mut Devices, options: &Options) -> Result<(), String> {
    if options.list {
        list::list(devices);
    }
    if !options.parallel {
        return run_parts(devices, options);
    }
    if smp::count() < 2 {
        return Err("parallel: serving balloons in parallel needs a second processor".into());
    }
    let mut balloons = core::mem::take(&mut devices.balloons);
    let mut served = Ok(());
    let mut done = Ok(());
    let mut serve = || served = balloon::run(&mut balloons, options);
    smp::run_all_on(core::iter::once((1, &mut serve as &mut (dyn FnMut() + Send))), || {
        done = run_parts(devices, options);
    });
    devices.balloons = balloons;
    served.and(done)
}

/// Runs all parts except `list`.
fn run_parts(devices: &mut Devices, options: &Options) -> Result<(), String> {
    if options.passthrough {
        passthrough::open(devices)?;
    }
    if let Some(bytes) = options.entropy {
        entropy::read(devices, bytes)?;
    }
    if let Some(name) = &options.mount {
        let disk = devices.find_disk(name)?;
        mount::mount(devices, disk)?;
    }
    if let Some(name) = &options.test {
        let disk = devices.find_disk(name)?;
        disk_test::test(devices, disk, options)?;
    }
    if options.bench {
        bench::bench(devices, options)?;
    }
    if let Some(seconds) = options.load {
        load::run(devices, seconds)?;
    }
    net::run(devices, options)?;
    if !options.parallel {
        balloon::run(&mut devices.balloons, options)?;
    }
    socket::run(devices, options)?;
    if let Some(seconds) = options.input {
        input::run(devices, seconds)?;
    }
    if let Some(seconds) = options.idle {
        idle::idle(devices, seconds);
    }
    host::run(devices, options)?;
    Ok(())
}
