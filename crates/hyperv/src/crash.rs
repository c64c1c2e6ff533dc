//! Crash reports and reset.

use crate::Hypervisor;
use hyperv_bindings::tlfs::{HvCrashFlags, HvFeatureFlags, HvMsr, HvPrivilegeFlags};
use paravirt_platform::{PAGE_SIZE, Platform};

impl<P: Platform> Hypervisor<P> {
    /// Reports a guest crash to the host: five guest-defined values, and a text of which the first 4096 bytes are sent if the host accepts
    /// texts. A text replaces the last two values by its address and length. Returns whether the host was notified.
    ///
    /// Callable from a panic: it takes no lock and does not block. Some hosts stop the guest here.
    pub fn report_crash(&self, mut values: [u64; 5], text: Option<&str>) -> bool {
        if !self.features().features.contains(HvFeatureFlags::CRASH_MSRS) {
            return false;
        }
        let platform = self.platform();
        // SAFETY: the registers are offered. The control register reads as the notifications that the host supports.
        unsafe {
            let known = HvCrashFlags::from_bits_retain(platform.registers().read_msr(HvMsr::CRASH_CTL.0));
            let mut control = HvCrashFlags::NOTIFY;
            if let Some(text) = text.filter(|_| known.contains(HvCrashFlags::MESSAGE)) {
                let bytes = text.as_bytes().get(..text.len().min(PAGE_SIZE)).unwrap_or_default();
                if self.text.shared().copy_in(0, bytes).is_some() {
                    let [.., address, len] = &mut values;
                    (*address, *len) = (self.text.bus().0, bytes.len() as u64);
                    control |= HvCrashFlags::MESSAGE;
                }
            }
            for (register, value) in (HvMsr::CRASH_P0.0..).zip(values) {
                platform.registers().write_msr(register, value);
            }
            platform.registers().write_msr(HvMsr::CRASH_CTL.0, control.bits());
        }
        true
    }

    /// Resets the machine; returns if the host does not offer that.
    pub fn reset(&self) {
        if self.features().privileges.contains(HvPrivilegeFlags::RESET) {
            // SAFETY: the register is offered; the machine is reset.
            unsafe { self.platform().registers().write_msr(HvMsr::RESET.0, 1) }
        }
    }
}
