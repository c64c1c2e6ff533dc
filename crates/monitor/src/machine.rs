//! The virtual machine: memory, interrupt controllers, processors and their CPUID leaves.

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

// kvm-ioctls has no method for this call.
ioctl_iow_nr!(KVM_HYPERV_EVENTFD, KVMIO, 0xbd, kvm_hyperv_eventfd);

/// The GSI of the first processor's VMBus SINT: it follows the pins of the IOAPIC.
pub const SINT_GSI: u32 = IOAPIC_PINS;
const IOAPIC_PINS: u32 = 24;
/// The start of the MMIO hole, which ends at 4 GiB.
pub const HOLE: u64 = 3 << 30;
const ABOVE: u64 = 4 << 30;
/// Pages that KVM uses on some processors.
const IDENTITY_MAP: u64 = 0xfeff_c000;
const TASK_STATE: usize = 0xfeff_d000;

/// A machine with empty memory.
pub struct Machine {
    pub vm: Arc<VmFd>,
    pub memory: GuestMemoryMmap,
    pub processors: Vec<VcpuFd>,
}

impl Machine {
    /// Creates a machine with that many processors and `size` bytes of memory.
    ///
    /// # Errors
    ///
    /// `/dev/kvm` cannot be opened, or this KVM lacks an interface.
    pub fn new(processors: u32, size: u64) -> Result<Self> {
        let kvm = Kvm::new()
            .context("cannot open /dev/kvm: load the kvm module, and give this user access to it")?;
        for capability in [KVM_CAP_HYPERV_SYNIC2, KVM_CAP_HYPERV_VP_INDEX, KVM_CAP_HYPERV_EVENTFD] {
            ensure!(
                kvm.check_extension_raw(capability.into()) > 0,
                "this KVM has no Hyper-V emulation (capability {capability}): use Linux 4.20 or later on x86, built with CONFIG_KVM_HYPERV"
            );
        }
        let vm = Arc::new(kvm.create_vm().context("cannot create a virtual machine")?);
        vm.set_identity_map_address(IDENTITY_MAP)?;
        vm.set_tss_address(TASK_STATE)?;
        vm.create_irq_chip().context("cannot create the interrupt controllers")?;
        vm.create_pit2(kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() })?;
        let memory = memory(&vm, size)?;
        let processors: Vec<VcpuFd> =
            (0..processors).map(|id| processor(&kvm, &vm, id, processors)).collect::<Result<_>>()?;
        // After the processors: a route to a SINT is ignored if its SynIC does not exist yet.
        route(&vm, processors.len() as u32)?;
        Ok(Self { vm, memory, processors })
    }
}

fn memory(vm: &VmFd, size: u64) -> Result<GuestMemoryMmap> {
    let mut ranges = vec![(GuestAddress(0), size.min(HOLE) as usize)];
    if size > HOLE {
        ranges.push((GuestAddress(ABOVE), (size - HOLE) as usize));
    }
    let memory = GuestMemoryMmap::from_ranges(&ranges)
        .context("cannot allocate the guest's memory: use a smaller --memory")?;
    for (slot, region) in memory.iter().enumerate() {
        let slot = kvm_userspace_memory_region {
            slot: slot as u32,
            flags: 0,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: region.get_host_address(MemoryRegionAddress(0))? as u64,
        };
        // SAFETY: the memory stays mapped as long as the machine exists, and is accessed as shared memory only.
        unsafe { vm.set_user_memory_region(slot)? }
    }
    Ok(memory)
}

/// Routes the pins of PIC and IOAPIC as KVM does by default, and the VMBus SINT of each processor.
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

/// The privileges of the guest: what KVM emulates, and what VMBus needs.
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

/// Returns the hypervisor's CPUID leaves. TLFS §2.4
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
    // Timers raise interrupts directly, so that the message slots have one writer.
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

/// Creates a processor and sets its CPUID leaves, SynIC, VP index and local APIC.
fn processor(kvm: &Kvm, vm: &VmFd, id: u32, count: u32) -> Result<VcpuFd> {
    let processor = vm.create_vcpu(id.into()).context("cannot create a processor: use a smaller --cpus")?;
    let mut leaves: Vec<_> = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?.as_slice().to_vec();
    // The leaves with KVM's signature are replaced by those with Hyper-V's.
    leaves.retain(|leaf| leaf.function & !0xff != HvCpuidLeaf::VENDOR.0);
    leaves.extend(hypervisor_leaves(count));
    for leaf in &mut leaves {
        match leaf.function {
            1 => {
                leaf.ebx = leaf.ebx & 0xffff | id << 24 | count << 16;
                // Hypervisor present, TSC deadline timer, x2APIC.
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
    ensure!(processor.set_msrs(&Msrs::from_entries(&[index])?)? == 1, "KVM refused the VP index");
    let mut lapic = processor.get_lapic()?;
    // LINT0 delivers external interrupts, LINT1 is the NMI.
    for (register, value) in [(0x350, 0x700u32), (0x360, 0x400)] {
        lapic.regs[register..register + 4].copy_from_slice(&value.to_le_bytes().map(|byte| byte as _));
    }
    processor.set_lapic(&lapic)?;
    Ok(processor)
}

/// Makes KVM handle HvSignalEvent for `connection` by a write to `eventfd`; `None` ends that.
pub fn set_signal_eventfd(vm: &VmFd, connection: u32, eventfd: Option<RawFd>) -> Result<()> {
    let argument = kvm_hyperv_eventfd {
        conn_id: connection,
        fd: eventfd.unwrap_or(-1),
        flags: if eventfd.is_some() { 0 } else { KVM_HYPERV_EVENTFD_DEASSIGN },
        ..Default::default()
    };
    // SAFETY: the argument has the type that the call reads, and lives until it returns.
    match unsafe { ioctl_with_ref(&vm.as_raw_fd(), KVM_HYPERV_EVENTFD(), &argument) } {
        0 => Ok(()),
        _ => Err(errno::Error::last())
            .with_context(|| format!("KVM refused the eventfd of connection {connection}")),
    }
}
