//! What the kernel answers the host: its name, its system, and that it ends when it is asked to.

use crate::say;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::{Error, Result, Write};
use paravirt_device::{Agent, Fact, HostTime, PowerRequest, ValuePool};

/// The kernel as the host sees it.
#[derive(Default)]
pub struct Kernel {
    /// How the host wants it to end.
    pub end: Option<PowerRequest>,
    has_told_time: bool,
    values: Vec<(ValuePool, String, String)>,
}

impl Agent for Kernel {
    fn power(&mut self, request: PowerRequest, is_forced: bool) -> bool {
        say!("event=power request={request:?} forced={is_forced}");
        let is_done = request != PowerRequest::Hibernate;
        if is_done {
            self.end = Some(request);
        }
        is_done
    }

    fn time(&mut self, time: HostTime) {
        // Samples come every few seconds.
        if time.is_step || !self.has_told_time {
            self.has_told_time = true;
            say!("event=time unix={} step={}", time.since_1970.as_secs(), time.is_step);
        }
    }

    fn fact(&mut self, fact: Fact, out: &mut dyn Write) -> Result {
        out.write_str(match fact {
            Fact::HostName => "paravirt",
            Fact::OsName => "paravirt example kernel",
            Fact::OsVersion => env!("CARGO_PKG_VERSION"),
            Fact::OsMajor => env!("CARGO_PKG_VERSION_MAJOR"),
            Fact::OsMinor => env!("CARGO_PKG_VERSION_MINOR"),
            Fact::Architecture => "9",
            _ => return Err(Error),
        })
    }

    fn set_value(&mut self, pool: ValuePool, key: &str, value: Option<&str>) -> bool {
        say!("event=value key=\"{key}\" value={value:?}");
        let before = self.values.len();
        self.values.retain(|(of, other, _)| *of != pool || other != key);
        match value {
            Some(value) => self.values.push((pool, key.to_string(), value.to_string())),
            None => return self.values.len() < before,
        }
        true
    }

    fn value(&mut self, pool: ValuePool, key: &str, out: &mut dyn Write) -> Result {
        let found = self.values.iter().find(|(of, other, _)| *of == pool && other == key);
        out.write_str(&found.ok_or(Error)?.2)
    }

    fn key(&mut self, pool: ValuePool, index: u32, out: &mut dyn Write) -> Result {
        let mut keys = self.values.iter().filter(|(of, ..)| *of == pool);
        out.write_str(&keys.nth(index as usize).ok_or(Error)?.1)
    }
}
