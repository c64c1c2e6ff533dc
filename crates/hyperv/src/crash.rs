//! Crash reports and reset.

use crate::Hypervisor;
use hyperv_bindings::tlfs::{HvCrashFlags, HvFeatureFlags, HvMsr, HvPrivilegeFlags};
use paravirt_platform::{PAGE_SIZE, Platform};

impl<P: Platform> Hypervisor<P> {
    /// Tells the host that the guest has crashed: five values as the guest likes, and a text where the host takes one, of
    /// which 4096 bytes at most. With a text, the last two values give way to its address and length. Whether the host was
    /// told.
    ///
    /// Callable from a panic: it takes no lock and waits for nothing. Some hosts stop the guest here.
    pub fn report_crash(&self, mut values: [u64; 5], text: Option<&str>) -> bool {
        if !self.features().features.contains(HvFeatureFlags::CRASH_MSRS) {
            return false;
        }
        let platform = self.platform();
        // SAFETY: the registers are offered. What the control register reads is what the host knows.
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

    /// Resets the machine; returns where the host does not offer that.
    pub fn reset(&self) {
        if self.features().privileges.contains(HvPrivilegeFlags::RESET) {
            // SAFETY: the register is offered; nothing is to be continued.
            unsafe { self.platform().registers().write_msr(HvMsr::RESET.0, 1) }
        }
    }
}
