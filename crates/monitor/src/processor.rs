//! Processor threads: each runs its processor and handles its exits.

use crate::host::Host;
use crate::ports::{End, Ports};
use hyperv_bindings::tlfs::HvMsr;
use kvm_bindings::{
    KVM_EXIT_HYPERV_HCALL, KVM_EXIT_HYPERV_SYNIC, KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET, Msrs,
    kvm_msr_entry,
};
use kvm_ioctls::{VcpuExit, VcpuFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// The state that all processors share.
pub struct Board {
    pub host: Host,
    pub ports: Mutex<Ports>,
    pub stop: AtomicBool,
}

/// Runs a processor until the machine stops; returns the reason if an exit of this processor stopped it.
pub fn run(board: &Board, vp: u32, mut processor: VcpuFd) -> Option<End> {
    let ports = || board.ports.lock().unwrap_or_else(PoisonError::into_inner);
    while !board.stop.load(Ordering::Acquire) {
        match processor.run() {
            Ok(VcpuExit::IoOut(port, data)) => {
                let (result, actions) = {
                    let mut ports = ports();
                    (ports.write(port, data), ports.take_actions())
                };
                actions.into_iter().for_each(|action| board.host.run_action(action));
                match result {
                    Ok(None) => {}
                    Ok(end) => return end,
                    Err(error) => return Some(End::Fault(format!("serial port: {error:#}"))),
                }
            }
            Ok(VcpuExit::IoIn(port, data)) => ports().read(port, data),
            Ok(VcpuExit::MmioRead(_, data)) => data.fill(0xff),
            Ok(VcpuExit::MmioWrite(..)) => {}
            Ok(VcpuExit::Hyperv) => hyperv(&board.host, vp, &mut processor),
            Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_CRASH, _)) => print_crash(&processor),
            Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET, _)) => return Some(End::Reset),
            Ok(VcpuExit::Shutdown) => return Some(End::Fault("a triple fault".into())),
            Ok(other) => {
                let text = format!("processor {vp}: unexpected exit {other:?}");
                let at = processor.get_regs().map(|registers| registers.rip).unwrap_or(0);
                return Some(End::Fault(format!("{text} at {at:#x}")));
            }
            Err(error) if [libc::EINTR, libc::EAGAIN].contains(&error.errno()) => {}
            Err(error) => return Some(End::Fault(format!("processor {vp}: {error}"))),
        }
    }
    None
}

/// Handles an exit for the Hyper-V emulation.
fn hyperv(host: &Host, vp: u32, processor: &mut VcpuFd) {
    // SAFETY: the exit reason tells that KVM has written this member of the union, and `type_` which member of the inner one.
    unsafe {
        let exit = &mut processor.get_kvm_run().__bindgen_anon_1.hyperv;
        match exit.type_ {
            KVM_EXIT_HYPERV_SYNIC => {
                let registers = exit.u.synic;
                host.set_registers(vp, registers.control, registers.evt_page, registers.msg_page);
            }
            KVM_EXIT_HYPERV_HCALL => {
                let call = &mut exit.u.hcall;
                call.result = host.hypercall(call.input, call.params[0]).0.into();
            }
            _ => {}
        }
    }
}

/// Prints the crash parameters that the guest reported. The guest continues to run.
fn print_crash(processor: &VcpuFd) {
    let entries: Vec<_> = (HvMsr::CRASH_P0.0..=HvMsr::CRASH_P4.0)
        .map(|index| kvm_msr_entry { index, ..Default::default() })
        .collect();
    let values = Msrs::from_entries(&entries).ok().and_then(|mut registers| {
        processor.get_msrs(&mut registers).ok()?;
        Some(registers.as_slice().iter().map(|register| format!("{:#x}", register.data)).collect::<Vec<_>>())
    });
    log_line!("the guest reported a crash: {}", values.unwrap_or_default().join(" "));
}
