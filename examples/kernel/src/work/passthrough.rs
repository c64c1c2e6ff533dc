//! `passthrough`: opens the devices of the `virtio-drivers` crate, over a pool that their buffers are bounced through. That crate
//! trusts its devices; this part of the kernel does with it.

use super::devices::{At, Devices};
use crate::platform::Machine;
use crate::say;
use alloc::format;
use alloc::string::{String, ToString};
use paravirt::PassthroughDevice;
use paravirt_virtio::passthrough::hal::{BouncePool, PoolSource};
use paravirt_virtio::transport::DeviceType;
use spin::Once;

/// Which pool they use.
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

pub fn open(devices: &mut Devices) -> Result<(), String> {
    for At { address, device } in core::mem::take(&mut devices.passthrough) {
        let kind = device.device_type();
        if kind == DeviceType::BLOCK {
            devices.passthrough.push(At { address, device });
            continue;
        }
        let opened = device.open::<Pool>().map_err(|e| format!("{kind} at {address}: {e}"))?;
        let what = match opened {
            PassthroughDevice::Gpu(mut gpu) => {
                let (width, height) = gpu.resolution().map_err(|e| e.to_string())?;
                format!("{width}x{height}")
            }
            _ => String::new(),
        };
        say!("opened=\"{kind}\" at={address} says=\"{what}\"");
    }
    Ok(())
}
