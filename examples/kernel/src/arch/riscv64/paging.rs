//! Address translation stays off: every address is physical, and the machine itself knows which are RAM and which are devices.

use super::boot::BootInfo;
use core::ptr::NonNull;
use paravirt_platform::MapError;

/// One past the last physical address. RISC-V privileged architecture §10.4
const END: u64 = 1 << 56;

/// Nothing has to be prepared.
pub fn init(_info: &BootInfo) {}

/// Returns up to where everything is mapped one to one.
pub fn identity_end() -> u64 {
    END
}

/// Hot-added memory is not supported on this processor.
pub fn extend(_end: u64) -> bool {
    false
}

/// As for [`extend`].
pub fn map_ram(_range: core::ops::Range<u64>) -> Option<()> {
    None
}

/// There are no addresses above.
pub fn map_device(_phys: u64, _end: u64) -> Result<NonNull<u8>, MapError> {
    Err(MapError)
}
