//! Models of VMware's devices, as QEMU's behave.

mod function;
mod hypervisor;
mod pvscsi;
mod vmxnet3;

pub use function::PciFaults;
pub use hypervisor::VmwareHypervisor;
pub use pvscsi::{PvscsiFaults, PvscsiHost};
pub use vmxnet3::{ReceivedMeta, SentFrame, Vmxnet3Faults, Vmxnet3Host};
