//! The guest's side of the integration services: the kernel's answers to requests of the host.

use crate::println;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::{Error, Result, Write};
use paravirt_device::{Agent, Fact, HostTime, PowerRequest, ValuePool};

/// Answers requests of the host, and stores the values that it sets.
#[derive(Default)]
pub struct Kernel {
    /// The power-off or reset that the host requested.
    pub end: Option<PowerRequest>,
    has_printed_time: bool,
    values: Vec<(ValuePool, String, String)>,
}

impl Agent for Kernel {
    fn power(&mut self, request: PowerRequest, is_forced: bool) -> bool {
        println!("event=power request={request:?} forced={is_forced}");
        match request {
            PowerRequest::Hibernate => return false,
            PowerRequest::Suspend => {}
            _ => self.end = Some(request),
        }
        true
    }

    fn time(&mut self, time: HostTime) {
        // The host sends samples every few seconds: only the first one is printed.
        if time.is_step || !self.has_printed_time {
            self.has_printed_time = true;
            println!("event=time unix={} step={}", time.since_1970.as_secs(), time.is_step);
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
        println!("event=value key=\"{key}\" value={value:?}");
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
