//! What the host asks of the guest as a whole.

use core::ffi::{c_char, c_void};
use core::fmt;
use paravirt_device::{Agent, Fact, HostTime, PowerRequest, ValuePool};

/// What the host asks for.
#[repr(C)]
#[derive(Copy, Clone, Debug)]
pub enum paravirt_power {
    /// To power off.
    Off,
    /// To restart.
    Restart,
    /// To save memory to disk and power off.
    Hibernate,
}

/// A fact about the guest.
#[repr(C)]
#[derive(Copy, Clone, Debug)]
pub enum paravirt_fact {
    /// The host name.
    HostName,
    /// The name of the operating system.
    OsName,
    /// Its version.
    OsVersion,
    /// Its major version number.
    OsMajor,
    /// Its minor version number.
    OsMinor,
    /// Its build number.
    OsBuild,
    /// The processor architecture.
    Architecture,
    /// The IPv4 addresses, separated by semicolons.
    Addresses4,
    /// The IPv6 addresses, separated by semicolons.
    Addresses6,
}

/// A pool of key-value pairs.
#[repr(C)]
#[derive(Copy, Clone, Debug)]
pub enum paravirt_value_pool {
    /// Written by the host, read by the guest.
    FromHost,
    /// Written by the guest, read by the host.
    FromGuest,
    /// Facts about the host.
    HostFacts,
}

/// Answers the host's requests. Functions that are null decline. Texts are UTF-8 and do not end in a zero; a function that returns one
/// writes at most `room` bytes to `out` and returns their number, or -1 if there is no such text.
#[repr(C)]
#[derive(Copy, Clone, Debug)]
pub struct paravirt_agent {
    /// Passed to every function.
    pub context: *mut c_void,
    /// The host asks for a shutdown; `is_forced` if it accepts no refusal. Returns whether the guest complies, which it does when
    /// `paravirt_services_serve` has returned.
    pub power: Option<extern "C" fn(context: *mut c_void, request: paravirt_power, is_forced: bool) -> bool>,
    /// The host sends its time, in nanoseconds since 1970-01-01 00:00:00 UTC; `is_step` if the clock is to be set to it.
    pub time: Option<extern "C" fn(context: *mut c_void, since_1970: u64, is_step: bool)>,
    /// Writes a fact.
    pub fact: Option<
        extern "C" fn(context: *mut c_void, fact: paravirt_fact, out: *mut c_char, room: usize) -> isize,
    >,
    /// The host sets the value of a key, or deletes the key (`value` is null). Returns whether that was done.
    pub set_value: Option<
        extern "C" fn(
            context: *mut c_void,
            pool: paravirt_value_pool,
            key: *const c_char,
            key_len: usize,
            value: *const c_char,
            value_len: usize,
        ) -> bool,
    >,
    /// Writes the value of a key.
    pub value: Option<
        extern "C" fn(
            context: *mut c_void,
            pool: paravirt_value_pool,
            key: *const c_char,
            key_len: usize,
            out: *mut c_char,
            room: usize,
        ) -> isize,
    >,
    /// Writes the key at `index` of the pool.
    pub key: Option<
        extern "C" fn(
            context: *mut c_void,
            pool: paravirt_value_pool,
            index: u32,
            out: *mut c_char,
            room: usize,
        ) -> isize,
    >,
}

/// The longest text that is passed on, in bytes.
const MAX_TEXT: usize = 1024;

/// Writes the text that `fill` puts into a buffer to `out`.
fn write(out: &mut dyn fmt::Write, fill: impl FnOnce(*mut c_char, usize) -> isize) -> fmt::Result {
    let mut text = [0u8; MAX_TEXT];
    let len = usize::try_from(fill(text.as_mut_ptr().cast(), MAX_TEXT)).map_err(|_| fmt::Error)?;
    let text = text.get(..len).and_then(|text| core::str::from_utf8(text).ok()).ok_or(fmt::Error)?;
    out.write_str(text)
}

fn pool_of(pool: ValuePool) -> paravirt_value_pool {
    match pool {
        ValuePool::FromGuest => paravirt_value_pool::FromGuest,
        ValuePool::HostFacts => paravirt_value_pool::HostFacts,
        _ => paravirt_value_pool::FromHost,
    }
}

impl Agent for paravirt_agent {
    fn power(&mut self, request: PowerRequest, is_forced: bool) -> bool {
        let request = match request {
            PowerRequest::Restart => paravirt_power::Restart,
            PowerRequest::Hibernate => paravirt_power::Hibernate,
            _ => paravirt_power::Off,
        };
        self.power.is_some_and(|power| power(self.context, request, is_forced))
    }

    fn time(&mut self, time: HostTime) {
        if let Some(set) = self.time {
            set(self.context, u64::try_from(time.since_1970.as_nanos()).unwrap_or(u64::MAX), time.is_step);
        }
    }

    fn fact(&mut self, fact: Fact, out: &mut dyn fmt::Write) -> fmt::Result {
        let fact = match fact {
            Fact::HostName => paravirt_fact::HostName,
            Fact::OsName => paravirt_fact::OsName,
            Fact::OsVersion => paravirt_fact::OsVersion,
            Fact::OsMajor => paravirt_fact::OsMajor,
            Fact::OsMinor => paravirt_fact::OsMinor,
            Fact::OsBuild => paravirt_fact::OsBuild,
            Fact::Architecture => paravirt_fact::Architecture,
            Fact::Addresses4 => paravirt_fact::Addresses4,
            Fact::Addresses6 => paravirt_fact::Addresses6,
            _ => return Err(fmt::Error),
        };
        let ask = self.fact.ok_or(fmt::Error)?;
        write(out, |text, room| ask(self.context, fact, text, room))
    }

    fn set_value(&mut self, pool: ValuePool, key: &str, value: Option<&str>) -> bool {
        let (text, len) = value.map_or((core::ptr::null(), 0), |value| (value.as_ptr().cast(), value.len()));
        self.set_value
            .is_some_and(|set| set(self.context, pool_of(pool), key.as_ptr().cast(), key.len(), text, len))
    }

    fn value(&mut self, pool: ValuePool, key: &str, out: &mut dyn fmt::Write) -> fmt::Result {
        let ask = self.value.ok_or(fmt::Error)?;
        write(out, |text, room| ask(self.context, pool_of(pool), key.as_ptr().cast(), key.len(), text, room))
    }

    fn key(&mut self, pool: ValuePool, index: u32, out: &mut dyn fmt::Write) -> fmt::Result {
        let ask = self.key.ok_or(fmt::Error)?;
        write(out, |text, room| ask(self.context, pool_of(pool), index, text, room))
    }
}
