//! Constants and sizes beside those of an independent binding, the `mshv-bindings` crate.

use core::mem::{offset_of, size_of};
use hyperv_bindings::tlfs::{HvHypercallCode, HvMessage, HvMessageHeader, HvMessageType, HvMsr, HvStatus};
use mshv_bindings as mshv;

macro_rules! same {
    ($($ours:expr => $theirs:ident),* $(,)?) => {
        $(assert_eq!(u64::from($ours.0), u64::from(mshv::$theirs), stringify!($ours));)*
    };
}

#[test]
fn registers() {
    same!(
        HvMsr::GUEST_OS_ID => HV_X64_MSR_GUEST_OS_ID,
        HvMsr::HYPERCALL => HV_X64_MSR_HYPERCALL,
        HvMsr::VP_INDEX => HV_X64_MSR_VP_INDEX,
        HvMsr::RESET => HV_X64_MSR_RESET,
        HvMsr::VP_RUNTIME => HV_X64_MSR_VP_RUNTIME,
        HvMsr::TIME_REF_COUNT => HV_X64_MSR_TIME_REF_COUNT,
        HvMsr::REFERENCE_TSC => HV_X64_MSR_REFERENCE_TSC,
        HvMsr::TSC_FREQUENCY => HV_X64_MSR_TSC_FREQUENCY,
        HvMsr::APIC_FREQUENCY => HV_X64_MSR_APIC_FREQUENCY,
        HvMsr::EOI => HV_X64_MSR_EOI,
        HvMsr::ICR => HV_X64_MSR_ICR,
        HvMsr::TPR => HV_X64_MSR_TPR,
        HvMsr::VP_ASSIST_PAGE => HV_X64_MSR_VP_ASSIST_PAGE,
        HvMsr::SCONTROL => HV_X64_MSR_SCONTROL,
        HvMsr::SVERSION => HV_X64_MSR_SVERSION,
        HvMsr::SIEFP => HV_X64_MSR_SIEFP,
        HvMsr::SIMP => HV_X64_MSR_SIMP,
        HvMsr::EOM => HV_X64_MSR_EOM,
        HvMsr::SINT0 => HV_X64_MSR_SINT0,
        HvMsr::SINT15 => HV_X64_MSR_SINT15,
        HvMsr::STIMER0_CONFIG => HV_X64_MSR_STIMER0_CONFIG,
        HvMsr::STIMER0_COUNT => HV_X64_MSR_STIMER0_COUNT,
        HvMsr::STIMER3_COUNT => HV_X64_MSR_STIMER3_COUNT,
        HvMsr::GUEST_IDLE => HV_X64_MSR_GUEST_IDLE,
        HvMsr::CRASH_P0 => HV_X64_MSR_CRASH_P0,
        HvMsr::CRASH_P4 => HV_X64_MSR_CRASH_P4,
        HvMsr::CRASH_CTL => HV_X64_MSR_CRASH_CTL,
    );
}

#[test]
fn codes_and_status() {
    same!(
        HvHypercallCode::GET_VP_REGISTERS => HVCALL_GET_VP_REGISTERS,
        HvHypercallCode::SET_VP_REGISTERS => HVCALL_SET_VP_REGISTERS,
        HvStatus::SUCCESS => HV_STATUS_SUCCESS,
        HvStatus::INVALID_HYPERCALL_CODE => HV_STATUS_INVALID_HYPERCALL_CODE,
        HvStatus::INVALID_HYPERCALL_INPUT => HV_STATUS_INVALID_HYPERCALL_INPUT,
        HvStatus::INVALID_ALIGNMENT => HV_STATUS_INVALID_ALIGNMENT,
        HvStatus::INVALID_PARAMETER => HV_STATUS_INVALID_PARAMETER,
        HvStatus::ACCESS_DENIED => HV_STATUS_ACCESS_DENIED,
        HvStatus::INVALID_PARTITION_STATE => HV_STATUS_INVALID_PARTITION_STATE,
        HvStatus::OPERATION_DENIED => HV_STATUS_OPERATION_DENIED,
        HvStatus::INSUFFICIENT_MEMORY => HV_STATUS_INSUFFICIENT_MEMORY,
        HvStatus::INVALID_PARTITION_ID => HV_STATUS_INVALID_PARTITION_ID,
        HvStatus::INVALID_VP_INDEX => HV_STATUS_INVALID_VP_INDEX,
        HvStatus::INVALID_PORT_ID => HV_STATUS_INVALID_PORT_ID,
        HvStatus::INVALID_CONNECTION_ID => HV_STATUS_INVALID_CONNECTION_ID,
        HvStatus::INSUFFICIENT_BUFFERS => HV_STATUS_INSUFFICIENT_BUFFERS,
        HvStatus::NOT_ACKNOWLEDGED => HV_STATUS_NOT_ACKNOWLEDGED,
        HvStatus::NO_RESOURCES => HV_STATUS_NO_RESOURCES,
        HvStatus::TIMEOUT => HV_STATUS_TIME_OUT,
    );
}

#[test]
fn messages() {
    assert_eq!(HvMessageType::NONE.0, mshv::hv_message_type_HVMSG_NONE);
    assert_eq!(HvMessageType::TIMER_EXPIRED.0, mshv::hv_message_type_HVMSG_TIMER_EXPIRED);
    assert_eq!(size_of::<HvMessageHeader>(), size_of::<mshv::hv_message_header>());
    assert_eq!(size_of::<HvMessage>(), size_of::<mshv::hv_message>());
    assert_eq!(offset_of!(HvMessage, payload), offset_of!(mshv::hv_message, u));
    assert_eq!(offset_of!(HvMessageHeader, payload_size), offset_of!(mshv::hv_message_header, payload_size));
}
