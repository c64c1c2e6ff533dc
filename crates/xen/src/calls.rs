//! The hypercalls that a guest with paravirtual devices makes. Xen `xen/include/public`

use core::fmt;
use paravirt_platform::{Platform, XenInstruction};

/// Numbers of hypercalls.
mod number {
    pub const MEMORY: u32 = 12;
    pub const SET_TIMER: u32 = 15;
    pub const VERSION: u32 = 17;
    pub const GRANT_TABLE: u32 = 20;
    pub const VCPU: u32 = 24;
    pub const SCHED: u32 = 29;
    pub const EVENT_CHANNEL: u32 = 32;
    pub const HVM: u32 = 34;
}

/// This domain, where a call names one.
const SELF: u16 = 0x7ff0;

/// What a hypercall returned instead of success: a negative error number.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct CallError(pub i32);

impl CallError {
    /// The hypervisor does not have the call.
    pub const NOT_IMPLEMENTED: Self = Self(-38);
    /// The hypervisor refuses the arguments, or the state that it is in.
    pub const INVALID: Self = Self(-22);
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the hypercall returned {}", self.0)
    }
}

impl core::error::Error for CallError {}

/// Parameters of an HVM domain.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum Parameter {
    Callback = 0,
    StoreFrame = 1,
    StorePort = 2,
    ConsoleFrame = 17,
    ConsolePort = 18,
}

/// What can be mapped into the address space of the guest.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum Space {
    SharedInfo = 0,
    GrantTable = 1,
}

/// Why a domain ends, or stops.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Shutdown {
    /// It is powered off.
    PowerOff = 0,
    /// It is restarted.
    Restart = 1,
    /// It is suspended: saved, or moved to another host.
    Suspend = 2,
    /// It has crashed.
    Crash = 3,
}

#[repr(C)]
struct AddToPhysmap {
    domain: u16,
    size: u16,
    space: u32,
    index: u64,
    frame: u64,
}

/// The list of frames that are given to the hypervisor or asked back.
#[repr(C)]
struct Reservation {
    frames: u64,
    count: u64,
    order: u32,
    flags: u32,
    domain: u16,
    padding: [u16; 3],
}

/// `struct evtchn_alloc_unbound`.
#[repr(C)]
struct AllocUnbound {
    domain: u16,
    remote: u16,
    port: u32,
}

/// `struct evtchn_init_control`.
#[repr(C)]
struct InitControl {
    frame: u64,
    offset: u32,
    vcpu: u32,
    link_bits: u8,
    padding: [u8; 7],
}

#[repr(C)]
struct HvmParameter {
    domain: u16,
    padding: u16,
    index: u32,
    value: u64,
}

#[repr(C)]
struct UpcallVector {
    vcpu: u32,
    vector: u8,
    padding: [u8; 3],
}

#[repr(C)]
struct QuerySize {
    domain: u16,
    padding: u16,
    frames: u32,
    most: u32,
    status: i16,
    end: u16,
}

/// The way to the hypervisor.
#[derive(Debug)]
pub(crate) struct Calls<P: Platform> {
    platform: P,
    instruction: XenInstruction,
}

impl<P: Platform> Calls<P> {
    pub fn new(platform: &P, instruction: XenInstruction) -> Self {
        Self { platform: platform.clone(), instruction }
    }

    /// # Safety
    ///
    /// The call with these arguments keeps memory safe.
    unsafe fn call(&self, number: u32, arguments: [u64; 3]) -> Result<i64, CallError> {
        // SAFETY: Xen was detected, with this instruction, and by the contract of this function.
        match unsafe { self.platform.xen().hypercall(self.instruction, number, arguments) } {
            result if result < 0 => Err(CallError(i32::try_from(result).unwrap_or(i32::MIN))),
            result => Ok(result),
        }
    }

    /// A call that reads and writes `argument`.
    ///
    /// # Safety
    ///
    /// As for [`call`](Self::call), and the call accesses no more than an argument of that type.
    unsafe fn operate<T>(&self, number: u32, command: u32, argument: &mut T) -> Result<(), CallError> {
        let address = core::ptr::from_mut(argument).expose_provenance() as u64;
        // SAFETY: by the contract of this function.
        unsafe { self.call(number, [u64::from(command), address, 1]) }.map(drop)
    }

    /// The features of a group, a bit each.
    pub fn features(&self, group: u32) -> Result<u32, CallError> {
        const GET_FEATURES: u32 = 6;
        let mut argument = [group, 0];
        // SAFETY: writes the second word of the argument.
        unsafe { self.operate(number::VERSION, GET_FEATURES, &mut argument) }?;
        let [_, features] = argument;
        Ok(features)
    }

    pub fn parameter(&self, parameter: Parameter) -> Result<u64, CallError> {
        const GET_PARAMETER: u32 = 1;
        let mut argument = HvmParameter { domain: SELF, padding: 0, index: parameter as u32, value: 0 };
        // SAFETY: writes the value of the argument.
        unsafe { self.operate(number::HVM, GET_PARAMETER, &mut argument) }?;
        Ok(argument.value)
    }

    /// Sets how events are signalled to processor 0.
    pub fn set_callback(&self, value: u64) -> Result<(), CallError> {
        const SET_PARAMETER: u32 = 0;
        let mut argument =
            HvmParameter { domain: SELF, padding: 0, index: Parameter::Callback as u32, value };
        // SAFETY: changes an interrupt.
        unsafe { self.operate(number::HVM, SET_PARAMETER, &mut argument) }
    }

    /// Sets the vector by which events are signalled to a processor; 0 for none.
    pub fn set_upcall_vector(&self, vcpu: u32, vector: u8) -> Result<(), CallError> {
        const SET_UPCALL_VECTOR: u32 = 23;
        let mut argument = UpcallVector { vcpu, vector, padding: [0; 3] };
        // SAFETY: changes an interrupt.
        unsafe { self.operate(number::HVM, SET_UPCALL_VECTOR, &mut argument) }
    }

    /// Replaces the page of frame `frame` with page `index` of `space`.
    ///
    /// # Safety
    ///
    /// The frame is one of the platform's shared frames, which nothing else uses.
    pub unsafe fn map(&self, space: Space, index: u64, frame: u64) -> Result<(), CallError> {
        const ADD_TO_PHYSMAP: u32 = 7;
        let mut argument = AddToPhysmap { domain: SELF, size: 0, space: space as u32, index, frame };
        // SAFETY: by the contract of this function.
        unsafe { self.operate(number::MEMORY, ADD_TO_PHYSMAP, &mut argument) }
    }

    /// Gives a frame back to the hypervisor.
    ///
    /// # Safety
    ///
    /// The guest does not access the page of the frame until [`populate`](Self::populate) has returned it.
    pub unsafe fn decrease_reservation(&self, frame: u64) -> Result<bool, CallError> {
        const DECREASE: u32 = 1;
        // SAFETY: by the contract of this function.
        unsafe { self.reserve(DECREASE, frame, 1) }
    }

    /// Whether the hypervisor takes pages: it is given none.
    pub fn can_balloon(&self) -> bool {
        const DECREASE: u32 = 1;
        // SAFETY: no page is given away.
        unsafe { self.reserve(DECREASE, 0, 0) }.is_ok()
    }

    /// Asks for a page at a frame that was given back.
    pub fn populate(&self, frame: u64) -> Result<bool, CallError> {
        const POPULATE: u32 = 6;
        // SAFETY: adds a page to the address space. If there is one at that frame, nothing changes.
        unsafe { self.reserve(POPULATE, frame, 1) }
    }

    /// # Safety
    ///
    /// As for [`call`](Self::call).
    unsafe fn reserve(&self, command: u32, frame: u64, count: u64) -> Result<bool, CallError> {
        let mut list = [frame];
        let frames = list.as_mut_ptr().expose_provenance() as u64;
        let mut argument = Reservation { frames, count, order: 0, flags: 0, domain: SELF, padding: [0; 3] };
        let address = core::ptr::from_mut(&mut argument).expose_provenance() as u64;
        // SAFETY: by the contract of this function; the call accesses the argument and the list.
        unsafe { self.call(number::MEMORY, [u64::from(command), address, 0]) }
            .map(|done| done == count as i64)
    }

    /// How many frames of the grant table there may be.
    pub fn grant_frames(&self) -> Result<u32, CallError> {
        const QUERY_SIZE: u32 = 6;
        let mut argument = QuerySize { domain: SELF, padding: 0, frames: 0, most: 0, status: 0, end: 0 };
        // SAFETY: writes the argument.
        unsafe { self.operate(number::GRANT_TABLE, QUERY_SIZE, &mut argument) }?;
        if argument.status == 0 { Ok(argument.most) } else { Err(CallError(argument.status.into())) }
    }

    /// Sets the version of the grant table's entries.
    pub fn set_grant_version(&self, version: u32) -> Result<(), CallError> {
        const SET_VERSION: u32 = 8;
        let mut argument = version;
        // SAFETY: writes the argument. The hypervisor refuses to change it while a page is mapped, and clears the entries.
        unsafe { self.operate(number::GRANT_TABLE, SET_VERSION, &mut argument) }
    }

    /// Allocates an event channel that domain `remote` may bind.
    pub fn alloc_unbound(&self, remote: u16) -> Result<u32, CallError> {
        const ALLOC_UNBOUND: u32 = 6;
        let mut argument = AllocUnbound { domain: SELF, remote, port: 0 };
        // SAFETY: writes the port of the argument.
        unsafe { self.operate(number::EVENT_CHANNEL, ALLOC_UNBOUND, &mut argument) }?;
        Ok(argument.port)
    }

    /// Binds a virtual interrupt of a processor to an event channel.
    pub fn bind_virq(&self, virq: u32, vcpu: u32) -> Result<u32, CallError> {
        const BIND_VIRQ: u32 = 1;
        let mut argument = [virq, vcpu, 0];
        // SAFETY: writes the last word of the argument.
        unsafe { self.operate(number::EVENT_CHANNEL, BIND_VIRQ, &mut argument) }?;
        let [.., port] = argument;
        Ok(port)
    }

    /// Binds an event channel by which the guest sends processor `vcpu` events itself.
    pub fn bind_ipi(&self, vcpu: u32) -> Result<u32, CallError> {
        const BIND_IPI: u32 = 7;
        let mut argument = [vcpu, 0];
        // SAFETY: writes the last word of the argument.
        unsafe { self.operate(number::EVENT_CHANNEL, BIND_IPI, &mut argument) }?;
        let [_, port] = argument;
        Ok(port)
    }

    /// Has the queues of processor `vcpu` kept at byte `offset` of frame `frame`. The first success changes the interface of the domain.
    ///
    /// # Safety
    ///
    /// The 128 bytes are the hypervisor's to write, for good.
    pub unsafe fn init_event_queues(&self, vcpu: u32, frame: u64, offset: u32) -> Result<(), CallError> {
        const INIT_CONTROL: u32 = 11;
        let mut argument = InitControl { frame, offset, vcpu, link_bits: 0, padding: [0; 7] };
        // SAFETY: by the contract of this function; writes the last byte of the argument.
        unsafe { self.operate(number::EVENT_CHANNEL, INIT_CONTROL, &mut argument) }
    }

    /// Has the words of the next 1024 event channels kept in frame `frame`.
    ///
    /// # Safety
    ///
    /// The page is the hypervisor's to write, for good.
    pub unsafe fn add_event_words(&self, frame: u64) -> Result<(), CallError> {
        const EXPAND_ARRAY: u32 = 12;
        let mut argument = frame;
        // SAFETY: by the contract of this function; reads the argument.
        unsafe { self.operate(number::EVENT_CHANNEL, EXPAND_ARRAY, &mut argument) }
    }

    pub fn close(&self, port: u32) -> Result<(), CallError> {
        const CLOSE: u32 = 3;
        self.event(CLOSE, port)
    }

    #[inline]
    pub fn send(&self, port: u32) -> Result<(), CallError> {
        const SEND: u32 = 4;
        self.event(SEND, port)
    }

    fn event(&self, command: u32, port: u32) -> Result<(), CallError> {
        let mut argument = port;
        // SAFETY: reads the argument.
        unsafe { self.operate(number::EVENT_CHANNEL, command, &mut argument) }
    }

    /// Makes an event channel signal that processor.
    pub fn bind_vcpu(&self, port: u32, vcpu: u32) -> Result<(), CallError> {
        const BIND_VCPU: u32 = 8;
        let mut argument = [port, vcpu];
        // SAFETY: reads the argument.
        unsafe { self.operate(number::EVENT_CHANNEL, BIND_VCPU, &mut argument) }
    }

    /// Lets other domains run.
    pub fn give_way(&self) {
        const YIELD: u64 = 0;
        // SAFETY: accesses no memory.
        let _ = unsafe { self.call(number::SCHED, [YIELD, 0, 0]) };
    }

    /// Ends or stops this domain. A call that returns true has suspended it, and it runs again in a new domain; one that returns false was
    /// cancelled.
    pub fn shutdown(&self, reason: Shutdown) -> Result<bool, CallError> {
        const SHUTDOWN: u32 = 2;
        let mut argument = reason as u32;
        let address = core::ptr::from_mut(&mut argument).expose_provenance() as u64;
        // SAFETY: reads the argument. What becomes of the domain does not change its memory.
        unsafe { self.call(number::SCHED, [SHUTDOWN.into(), address, 0]) }.map(|result| result == 0)
    }

    /// Makes the hypervisor write the time of a processor to `address`, a virtual one.
    ///
    /// # Safety
    ///
    /// There are 32 bytes, aligned to 8, that are the hypervisor's to write for good.
    pub unsafe fn register_time(&self, vcpu: u32, address: u64) -> Result<(), CallError> {
        const REGISTER_TIME: u64 = 13;
        let mut argument = address;
        let at = core::ptr::from_mut(&mut argument).expose_provenance() as u64;
        // SAFETY: by the contract of this function; the call reads the argument.
        unsafe { self.call(number::VCPU, [REGISTER_TIME, vcpu.into(), at]) }.map(drop)
    }

    /// Sets the current processor's timer to `nanos` of the system time; 0 stops it.
    pub fn set_timer(&self, nanos: u64) -> Result<(), CallError> {
        // SAFETY: raises an event.
        unsafe { self.call(number::SET_TIMER, [nanos, 0, 0]) }.map(drop)
    }
}
