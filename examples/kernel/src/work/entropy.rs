//! `entropy=BYTES`: reads that many bytes from the first entropy device.

use super::devices::Devices;
use crate::{platform, println};
use alloc::string::{String, ToString};
use alloc::vec;
use core::time::Duration;
use paravirt_device::{Entropy, Notify};
use sha2::{Digest, Sha256};

/// Reads `bytes` bytes and prints how many bits are set, and their SHA-256.
pub fn read(devices: &mut Devices, bytes: usize) -> Result<(), String> {
    let source = &mut devices.entropy.first_mut().ok_or("there is no entropy device")?.device;
    let mut buffer = vec![0; bytes];
    let (mut filled, mut set_bits) = (0, 0);
    let deadline = crate::arch::time::now().saturating_add(Duration::from_secs(60));
    source.register(&platform::waker());
    while filled < bytes {
        match source.fill(&mut buffer[filled..]).map_err(|fault| fault.to_string())? {
            0 if crate::arch::time::now() >= deadline => {
                return Err("entropy: the device returned no bytes for 60 seconds".into());
            }
            0 => platform::sleep(deadline, || source.arm()),
            count => filled += count,
        }
    }
    for byte in &buffer {
        set_bits += byte.count_ones();
    }
    println!("entropy={bytes} set_bits={set_bits} sha256={}", super::mount::hex(&Sha256::digest(&buffer)));
    Ok(())
}
