//! The services of the platform that only this processor has: ports, registers, hypercalls.

use crate::memory;
use crate::platform::Machine;
use core::num::NonZeroUsize;
use paravirt_platform::{HyperV, PortIo, RawDma, Registers, Xen, vmware_port_call};
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
}

/// How many pages the hypervisor gets: one of its own, one for each 512 grants, and two for event channels.
const XEN_FRAMES: NonZeroUsize = NonZeroUsize::MIN.saturating_add(66);
static FRAMES: spin::Once<Option<XenFrames>> = spin::Once::new();

/// The pages that are Xen's.
struct XenFrames(RawDma);

// SAFETY: the address of pages that nothing of the kernel accesses.
unsafe impl Send for XenFrames {}
// SAFETY: as above.
unsafe impl Sync for XenFrames {}

// SAFETY: the pages are allocated once and never freed.
unsafe impl Xen for Machine {
    fn shared_frames(&self) -> Option<RawDma> {
        let frames = FRAMES.call_once(|| memory::alloc(XEN_FRAMES).ok().map(XenFrames));
        frames.as_ref().map(|frames| frames.0)
    }
}
