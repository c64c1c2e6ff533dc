//! Models of VMware's devices, as QEMU's behave.

mod function;
mod pvscsi;

pub use function::PciFaults;
pub use pvscsi::{PvscsiFaults, PvscsiHost};
