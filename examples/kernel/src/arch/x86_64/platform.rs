//! The services of the platform that only this processor has: ports, registers, hypercalls.

use crate::memory;
use crate::platform::Machine;
use core::num::NonZeroUsize;
use paravirt_platform::{HyperV, PortIo, RawDma, Registers, Vector, vmware_port_call};
use x86_64::instructions::port::Port;

// SAFETY: the instructions have the widths that the methods promise.
unsafe impl PortIo for Machine {
    unsafe fn in32(&self, port: u16) -> u32 {
        // SAFETY: by the contract of this function, which is that of the callee.
        unsafe { Port::new(port).read() }
    }
    unsafe fn out32(&self, port: u16, value: u32) {
        // SAFETY: by the contract of this function, which is that of the callee.
        unsafe { Port::new(port).write(value) }
    }
    unsafe fn in16(&self, port: u16) -> u16 {
        // SAFETY: by the contract of this function, which is that of the callee.
        unsafe { Port::new(port).read() }
    }
    unsafe fn vmware_call(&self, command: u32, parameter: u32) -> Option<[u32; 4]> {
        // SAFETY: by the contract of this function; the kernel runs in ring 0.
        Some(unsafe { vmware_port_call(command, parameter) })
    }
    unsafe fn out16(&self, port: u16, value: u16) {
        // SAFETY: by the contract of this function, which is that of the callee.
        unsafe { Port::new(port).write(value) }
    }
}

// SAFETY: the kernel runs in ring 0, where the instructions are allowed.
unsafe impl Registers for Machine {}

// SAFETY: RAM is mapped one to one and executable, and the kernel does not write to an allocated page.
unsafe impl HyperV for Machine {
    fn hypercall_page(&self) -> Option<RawDma> {
        memory::alloc(NonZeroUsize::MIN).ok()
    }
    unsafe fn free_hypercall_page(&self, page: RawDma) {
        // SAFETY: by the contract of this function, which is that of the callee.
        unsafe { memory::free(page) }
    }
    fn descriptor(&self, vector: Vector) -> Option<u8> {
        u8::try_from(vector.0).ok()
    }
}
