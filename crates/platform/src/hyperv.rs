use crate::Processors;

/// What the Hyper-V drivers need of a processor: its model-specific registers and the hypercall.
///
/// # Safety
///
/// The registers and the hypercall are those of the processor that calls.
pub unsafe trait HyperV: Processors {
    /// Reads a model-specific register of this processor.
    ///
    /// # Safety
    ///
    /// The host offers the register: reading one that it does not offer faults (TLFS §2.4).
    unsafe fn read_msr(&self, index: u32) -> u64;

    /// Writes a model-specific register of this processor.
    ///
    /// # Safety
    ///
    /// The host offers the register, and what the value makes the host do keeps memory safe.
    unsafe fn write_msr(&self, index: u32, value: u64);

    /// Calls the hypervisor through its hypercall page: `control` in RCX, `input` in RDX, `output` in R8; returns
    /// RAX (TLFS §3.7). `page` is where the hypercall page is mapped, executable.
    ///
    /// # Safety
    ///
    /// The hypercall page is enabled at `page`, and the call with these arguments keeps memory safe.
    unsafe fn hypercall(&self, page: *const u8, control: u64, input: u64, output: u64) -> u64;
}
