//! The virtual machine: memory, interrupt controllers, processors and what they are told of themselves.

use anyhow::{Context, Result, ensure};
use hyperv_bindings::tlfs::{
    HV_INTERFACE_SIGNATURE, HvCpuidLeaf, HvFeatureFlags, HvMsr, HvPrivilegeFlags, HvRecommendationFlags,
};
use hyperv_bindings::vmbus::VMBUS_SINT;
use kvm_bindings::*;
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, MemoryRegionAddress};
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::{errno, ioctl_iow_nr};

// kvm-ioctls has no method for it.
ioctl_iow_nr!(KVM_HYPERV_EVENTFD, KVMIO, 0xbd, kvm_hyperv_eventfd);

/// The interrupt of the first processor's VMBus source: behind the pins of the IOAPIC.
pub const SINT_GSI: u32 = IOAPIC_PINS;
const IOAPIC_PINS: u32 = 24;
/// Where memory has its hole: below 4 GiB.
pub const HOLE: u64 = 3 << 30;
const ABOVE: u64 = 4 << 30;
/// Pages that KVM uses itself on some processors.
const IDENTITY_MAP: u64 = 0xfeff_c000;
const TASK_STATE: usize = 0xfeff_d000;

/// A machine without anything in its memory.
pub struct Machine {
    pub vm: Arc<VmFd>,
    pub memory: GuestMemoryMmap,
    pub processors: Vec<VcpuFd>,
}

impl Machine {
    /// A machine of `processors` with `size` bytes of memory.
    pub fn new(processors: u32, size: u64) -> Result<Self> {
        let kvm = Kvm::new()
            .context("cannot open /dev/kvm: it must be there, and this user must be allowed to use it")?;
        for capability in [KVM_CAP_HYPERV_SYNIC2, KVM_CAP_HYPERV_VP_INDEX, KVM_CAP_HYPERV_EVENTFD] {
            ensure!(
                kvm.check_extension_raw(capability.into()) > 0,
                "this KVM has no Hyper-V interface (capability {capability}): Linux 4.20 or later on x86 has it, where it is built with CONFIG_KVM_HYPERV"
            );
        }
        let vm = Arc::new(kvm.create_vm().context("cannot make a virtual machine")?);
        vm.set_identity_map_address(IDENTITY_MAP)?;
        vm.set_tss_address(TASK_STATE)?;
        vm.create_irq_chip().context("this KVM has no interrupt controllers")?;
        vm.create_pit2(kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() })?;
        let memory = memory(&vm, size)?;
        let processors: Vec<VcpuFd> =
            (0..processors).map(|id| processor(&kvm, &vm, id, processors)).collect::<Result<_>>()?;
        // Only now: a route to a source counts where its controller is there already.
        route(&vm, processors.len() as u32)?;
        Ok(Self { vm, memory, processors })
    }
}

fn memory(vm: &VmFd, size: u64) -> Result<GuestMemoryMmap> {
    let mut ranges = vec![(GuestAddress(0), size.min(HOLE) as usize)];
    if size > HOLE {
        ranges.push((GuestAddress(ABOVE), (size - HOLE) as usize));
    }
    let memory = GuestMemoryMmap::from_ranges(&ranges).context("not enough memory for the guest's")?;
    for (slot, region) in memory.iter().enumerate() {
        let slot = kvm_userspace_memory_region {
            slot: slot as u32,
            flags: 0,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: region.get_host_address(MemoryRegionAddress(0))? as u64,
        };
        // SAFETY: the memory stays mapped as long as the machine is, and is used as shared memory only.
        unsafe { vm.set_user_memory_region(slot)? }
    }
    Ok(memory)
}

/// The pins of PIC and IOAPIC as they are by default, and the VMBus source of each processor.
fn route(vm: &VmFd, processors: u32) -> Result<()> {
    let mut entries = Vec::new();
    let mut pin = |gsi, irqchip, pin| {
        let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_IRQCHIP, ..Default::default() };
        entry.u.irqchip = kvm_irq_routing_irqchip { irqchip, pin };
        entries.push(entry);
    };
    for gsi in 0..16 {
        pin(gsi, if gsi < 8 { KVM_IRQCHIP_PIC_MASTER } else { KVM_IRQCHIP_PIC_SLAVE }, gsi % 8);
    }
    (0..IOAPIC_PINS).for_each(|gsi| pin(gsi, KVM_IRQCHIP_IOAPIC, gsi));
    for vcpu in 0..processors {
        let gsi = SINT_GSI + vcpu;
        let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_HV_SINT, ..Default::default() };
        entry.u.hv_sint = kvm_irq_routing_hv_sint { vcpu, sint: VMBUS_SINT };
        entries.push(entry);
    }
    vm.set_gsi_routing(&KvmIrqRouting::from_entries(&entries)?)?;
    Ok(())
}

/// What of Hyper-V there is: what KVM has, and VMBus.
const PRIVILEGES: HvPrivilegeFlags = HvPrivilegeFlags::VP_RUNTIME
    .union(HvPrivilegeFlags::TIME_REF_COUNT)
    .union(HvPrivilegeFlags::SYNIC)
    .union(HvPrivilegeFlags::STIMER)
    .union(HvPrivilegeFlags::APIC)
    .union(HvPrivilegeFlags::HYPERCALL)
    .union(HvPrivilegeFlags::VP_INDEX)
    .union(HvPrivilegeFlags::RESET)
    .union(HvPrivilegeFlags::REFERENCE_TSC)
    .union(HvPrivilegeFlags::FREQUENCY)
    .union(HvPrivilegeFlags::POST_MESSAGES)
    .union(HvPrivilegeFlags::SIGNAL_EVENTS);

/// How the processors see the hypervisor. TLFS 2.4
fn hypervisor_leaves(processors: u32) -> [kvm_cpuid_entry2; 7] {
    let leaf = |leaf: HvCpuidLeaf, eax, ebx, ecx, edx| kvm_cpuid_entry2 {
        function: leaf.0,
        eax,
        ebx,
        ecx,
        edx,
        ..Default::default()
    };
    let text = |at: usize| u32::from_le_bytes(b"Microsoft Hv"[at..at + 4].try_into().expect("four bytes"));
    let privileges = PRIVILEGES.bits();
    // Timers interrupt directly, so that the slots for messages have one writer.
    let features =
        (HvFeatureFlags::FREQUENCY_MSRS | HvFeatureFlags::CRASH_MSRS | HvFeatureFlags::DIRECT_STIMER).bits();
    let hints = (HvRecommendationFlags::RELAXED_TIMING | HvRecommendationFlags::AUTO_EOI_DEPRECATED).bits();
    let (build, version) = (14393, 10 << 16);
    [
        leaf(HvCpuidLeaf::VENDOR, HvCpuidLeaf::HARDWARE.0, text(0), text(4), text(8)),
        leaf(HvCpuidLeaf::INTERFACE, HV_INTERFACE_SIGNATURE, 0, 0, 0),
        leaf(HvCpuidLeaf(HvCpuidLeaf::VENDOR.0 + 2), build, version, 0, 0),
        leaf(HvCpuidLeaf::FEATURES, privileges as u32, (privileges >> 32) as u32, 0, features),
        leaf(HvCpuidLeaf(HvCpuidLeaf::VENDOR.0 + 4), hints, u32::MAX, 0, 0),
        leaf(HvCpuidLeaf(HvCpuidLeaf::VENDOR.0 + 5), processors, processors, 0, 0),
        leaf(HvCpuidLeaf::HARDWARE, 0, 0, 0, 0),
    ]
}

fn processor(kvm: &Kvm, vm: &VmFd, id: u32, count: u32) -> Result<VcpuFd> {
    let processor = vm.create_vcpu(id.into()).context("no more processors")?;
    let mut leaves: Vec<_> = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?.as_slice().to_vec();
    // Where KVM says that it is KVM, this machine says what it is.
    leaves.retain(|leaf| leaf.function & !0xff != HvCpuidLeaf::VENDOR.0);
    leaves.extend(hypervisor_leaves(count));
    for leaf in &mut leaves {
        match leaf.function {
            1 => {
                leaf.ebx = leaf.ebx & 0xffff | id << 24 | count << 16;
                // A hypervisor, the deadline of the local timer, x2APIC.
                leaf.ecx |= 1 << 31 | 1 << 24 | 1 << 21;
                leaf.edx |= u32::from(count > 1) << 28;
            }
            0xb | 0x1f => leaf.edx = id,
            0x8000_001e => leaf.eax = id,
            _ => {}
        }
    }
    processor.set_cpuid2(&CpuId::from_entries(&leaves)?)?;
    processor.enable_cap(&kvm_enable_cap { cap: KVM_CAP_HYPERV_SYNIC2, ..Default::default() })?;
    let index = kvm_msr_entry { index: HvMsr::VP_INDEX.0, data: id.into(), ..Default::default() };
    ensure!(processor.set_msrs(&Msrs::from_entries(&[index])?)? == 1, "a processor takes no VP index");
    let mut lapic = processor.get_lapic()?;
    // The pins: external interrupts, and the one that is not masked.
    for (register, value) in [(0x350, 0x700u32), (0x360, 0x400)] {
        lapic.regs[register..register + 4].copy_from_slice(&value.to_le_bytes().map(|byte| byte as _));
    }
    processor.set_lapic(&lapic)?;
    Ok(processor)
}

/// Has KVM answer signals by `connection` itself, by writing `door`; or no more.
pub fn set_door(vm: &VmFd, connection: u32, door: Option<RawFd>) -> Result<()> {
    let argument = kvm_hyperv_eventfd {
        conn_id: connection,
        fd: door.unwrap_or(-1),
        flags: if door.is_some() { 0 } else { KVM_HYPERV_EVENTFD_DEASSIGN },
        ..Default::default()
    };
    // SAFETY: the structure is what the call reads, and lives as long.
    match unsafe { ioctl_with_ref(&vm.as_raw_fd(), KVM_HYPERV_EVENTFD(), &argument) } {
        0 => Ok(()),
        _ => Err(errno::Error::last()).context("KVM takes no door for a connection"),
    }
}
