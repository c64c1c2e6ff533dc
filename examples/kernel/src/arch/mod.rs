//! What depends on the processor and the machine around it; each folder has the same modules. Beside them is what processors share
//! whose machines are no PCs.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(not(target_arch = "x86_64"))]
mod counter;
#[cfg(not(target_arch = "x86_64"))]
mod device_tree;
#[cfg(not(target_arch = "x86_64"))]
pub mod pci;
#[cfg(not(target_arch = "x86_64"))]
mod processor_list;
#[cfg(target_arch = "riscv64")]
mod riscv64;
#[cfg(not(target_arch = "x86_64"))]
mod stack_guard;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
pub use aarch64::*;
#[cfg(target_arch = "riscv64")]
pub use riscv64::*;
#[cfg(target_arch = "x86_64")]
pub use x86_64::*;
