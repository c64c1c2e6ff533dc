//! The default services of a kernel that does not implement them.

use crate::{
    BindError, HyperV, Interrupts, PortIo, ProcessorId, Processors, RawDma, RawHandler, Registers, Vector,
    Xen,
};

/// Absent services: no handler can be bound, there is one processor, ports read as all ones, CPUID reports no hypervisor.
pub(crate) struct Absent;

// SAFETY: no handler is ever bound.
unsafe impl Interrupts for Absent {
    unsafe fn bind(&self, _handler: RawHandler, _processor: ProcessorId) -> Result<Vector, BindError> {
        Err(BindError::Unsupported)
    }
    fn unbind(&self, _vector: Vector) {}
}

impl Processors for Absent {}

// SAFETY: no port is accessed.
unsafe impl PortIo for Absent {
    unsafe fn in32(&self, _port: u16) -> u32 {
        u32::MAX
    }
    unsafe fn out32(&self, _port: u16, _value: u32) {}
    unsafe fn out16(&self, _port: u16, _value: u16) {}
}

// SAFETY: no register is accessed.
unsafe impl Registers for Absent {
    fn cpuid(&self, _leaf: u32) -> [u32; 4] {
        [0; 4]
    }
    fn tsc(&self) -> u64 {
        0
    }
    unsafe fn read_msr(&self, _index: u32) -> u64 {
        0
    }
    unsafe fn write_msr(&self, _index: u32, _value: u64) {}
}

// SAFETY: there is no hypercall page.
unsafe impl HyperV for Absent {
    fn hypercall_page(&self) -> Option<RawDma> {
        None
    }
    unsafe fn free_hypercall_page(&self, _page: RawDma) {}
}

// SAFETY: there are no pages.
unsafe impl Xen for Absent {
    fn shared_frames(&self) -> Option<RawDma> {
        None
    }
}
