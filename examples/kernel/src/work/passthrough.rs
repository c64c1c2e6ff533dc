//! `passthrough`: opens the devices for which the `virtio-drivers` crate has drivers. Their buffers are bounced through a pool. That
//! crate trusts its devices, so this part of the kernel does, too.

use super::devices::{At, Devices};
use crate::platform::Machine;
use crate::println;
use alloc::format;
use alloc::string::{String, ToString};
use paravirt::PassthroughDevice;
use paravirt_virtio::passthrough::hal::{BouncePool, PoolSource};
use paravirt_virtio::transport::DeviceType;
use spin::Once;

/// The pool for bounce buffers of these drivers.
pub struct Pool;
static POOL: Once<BouncePool<Machine>> = Once::new();

impl PoolSource for Pool {
    type Platform = Machine;
    fn pool() -> &'static BouncePool<Machine> {
        POOL.call_once(|| match BouncePool::new(&Machine) {
            Ok(pool) => pool,
            Err(error) => panic!("{error}"),
        })
    }
}

/// Opens all passthrough devices except disks, which `bench` with `peer` uses.
pub fn open(devices: &mut Devices) -> Result<(), String> {
    for At { address, device } in core::mem::take(&mut devices.passthrough) {
        let kind = device.device_type();
        if kind == DeviceType::BLOCK {
            devices.passthrough.push(At { address, device });
            continue;
        }
        let opened = device.open::<Pool>(&Machine).map_err(|e| format!("{kind} at {address}: {e}"))?;
        let what = match opened {
            PassthroughDevice::Gpu(mut gpu) => {
                let (width, height) = gpu.resolution().map_err(|e| e.to_string())?;
                format!("{width}x{height}")
            }
            _ => String::new(),
        };
        println!("opened=\"{kind}\" at={address} says=\"{what}\"");
    }
    Ok(())
}
