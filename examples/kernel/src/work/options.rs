//! The kernel's command line.

use super::devices::DiskName;
use alloc::format;
use alloc::string::{String, ToString};
use smoltcp::wire::{Ipv4Address, Ipv4Cidr};

/// The parsed command line. Unknown options are ignored: they may be for the boot loader or the host.
#[derive(Default)]
pub struct Options {
    pub list: bool,
    /// Use a PCI bus of the kernel's own, and open its devices one by one.
    pub own_bus: bool,
    /// Copy to and from pages that Xen's backends of disks may keep mapped.
    pub persistent_grants: bool,
    /// Leave Xen's events in the tables of the 2-level interface.
    pub two_level: bool,
    /// Use Xen's grants of version 2.
    pub wide_grants: bool,
    /// Print how much stack the search for devices took.
    pub stack: bool,
    pub mount: Option<DiskName>,
    pub test: Option<DiskName>,
    /// Bytes between the requests of a test, which then skips the blocks in between.
    pub stride: Option<u64>,
    /// The timeout of each request of a test, in seconds.
    pub timeout: Option<u64>,
    pub dhcp: bool,
    pub address: Option<Ipv4Cidr>,
    pub gateway: Option<Ipv4Address>,
    /// Ping that address, or the gateway if it is `None`.
    pub ping: Option<Option<Ipv4Address>>,
    pub http: Option<String>,
    pub echo: Option<u16>,
    /// Address and port of an echo server.
    pub round_trips: Option<(Ipv4Address, u16)>,
    pub entropy: Option<usize>,
    pub idle: Option<u64>,
    /// The host's port to connect to.
    pub socket: Option<u32>,
    /// The guest's port to listen on.
    pub socket_echo: Option<u32>,
    /// Seconds for which keyboards and mice are polled.
    pub input: Option<u64>,
    /// Seconds for which balloons are served.
    pub balloon: Option<u64>,
    /// Bytes of free memory to report.
    pub report_free: Option<u64>,
    /// Serve balloons on the second processor, in parallel with the other parts.
    pub parallel: bool,
    pub clock: bool,
    pub timer: bool,
    pub crash: bool,
    pub reset: bool,
    /// How often to close all devices and probe again.
    pub reconnect: Option<u32>,
    /// The newest version of VMBus to offer.
    pub vmbus: Option<paravirt::VmbusVersion>,
    /// Seconds for which disk0 is written and read back.
    pub load: Option<u64>,
    pub bench: bool,
    /// Also write to disk0.
    pub bench_writes: bool,
    /// Open the devices for which the `virtio-drivers` crate has drivers.
    pub passthrough: bool,
    /// Use the disk driver of the `virtio-drivers` crate, for comparison.
    pub peer: bool,
    pub cpus: Option<u32>,
    pub nic: usize,
    /// Have the card deliver multicast frames to one address alone.
    pub filters: bool,
    pub queues: Option<u16>,
    pub queue_size: Option<u16>,
    pub mtu: Option<u16>,
}

fn value<T>(key: &str, text: &str, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, String> {
    parse(text).ok_or_else(|| format!("{key}={text} cannot be read"))
}

pub fn number<T: TryFrom<u64>>(text: &str) -> Option<T> {
    let (digits, shift) = match text.strip_suffix(['K', 'M', 'G']) {
        Some(digits) if text.ends_with('K') => (digits, 10),
        Some(digits) if text.ends_with('M') => (digits, 20),
        Some(digits) => (digits, 30),
        None => (text, 0),
    };
    T::try_from(digits.parse::<u64>().ok()?.checked_mul(1 << shift)?).ok()
}

/// Parses an address and an optional port; the default is the echo port.
fn server(text: &str) -> Option<(Ipv4Address, u16)> {
    const ECHO: u16 = 7;
    match text.split_once(':') {
        Some((address, port)) => Some((address.parse().ok()?, port.parse().ok()?)),
        None => Some((text.parse().ok()?, ECHO)),
    }
}

fn version(text: &str) -> Option<paravirt::VmbusVersion> {
    let (major, minor) = text.split_once('.')?;
    Some(paravirt::VmbusVersion::new(major.parse().ok()?, minor.parse().ok()?))
}

impl Options {
    /// Parses the command line.
    ///
    /// # Errors
    ///
    /// A message that names the malformed option.
    pub fn parse(line: &str) -> Result<Self, String> {
        let mut options = Self::default();
        for word in line.split_ascii_whitespace() {
            let (key, text) = word.split_once('=').map_or((word, None), |(key, text)| (key, Some(text)));
            match (key, text) {
                ("list", None) => options.list = true,
                ("stack", None) => options.stack = true,
                ("filter", None) => options.filters = true,
                ("own-bus", None) => options.own_bus = true,
                ("persistent-grants", None) => options.persistent_grants = true,
                ("two-level", None) => options.two_level = true,
                ("wide-grants", None) => options.wide_grants = true,
                ("dhcp", None) => options.dhcp = true,
                ("bench", None) => options.bench = true,
                ("bench", Some(text)) => {
                    options.bench_writes = value(key, text, |t| (t == "write").then_some(true))?;
                    options.bench = true;
                }
                ("parallel", None) => options.parallel = true,
                ("clock", None) => options.clock = true,
                ("timer", None) => options.timer = true,
                ("crash", None) => options.crash = true,
                ("reset", None) => options.reset = true,
                ("passthrough", None) => options.passthrough = true,
                ("peer", None) => options.peer = true,
                ("ping", None) => options.ping = Some(None),
                ("mount", Some(text)) => options.mount = Some(value(key, text, DiskName::parse)?),
                ("test", Some(text)) => options.test = Some(value(key, text, DiskName::parse)?),
                ("stride", Some(text)) => options.stride = Some(value(key, text, number)?),
                ("timeout", Some(text)) => options.timeout = Some(value(key, text, number)?),
                ("ip", Some(text)) => options.address = Some(value(key, text, |t| t.parse().ok())?),
                ("gw", Some(text)) => options.gateway = Some(value(key, text, |t| t.parse().ok())?),
                ("ping", Some(text)) => options.ping = Some(Some(value(key, text, |t| t.parse().ok())?)),
                ("http", Some(text)) => options.http = Some(text.to_string()),
                ("echo", Some(text)) => options.echo = Some(value(key, text, number)?),
                ("round-trips", Some(text)) => options.round_trips = Some(value(key, text, server)?),
                ("entropy", Some(text)) => options.entropy = Some(value(key, text, number)?),
                ("idle", Some(text)) => options.idle = Some(value(key, text, number)?),
                ("socket", Some(text)) => options.socket = Some(value(key, text, number)?),
                ("socket-echo", Some(text)) => options.socket_echo = Some(value(key, text, number)?),
                ("input", Some(text)) => options.input = Some(value(key, text, number)?),
                ("balloon", Some(text)) => options.balloon = Some(value(key, text, number)?),
                ("report-free", Some(text)) => options.report_free = Some(value(key, text, number)?),
                ("load", Some(text)) => options.load = Some(value(key, text, number)?),
                ("reconnect", Some(text)) => options.reconnect = Some(value(key, text, number)?),
                ("vmbus", Some(text)) => options.vmbus = Some(value(key, text, version)?),
                ("cpus", Some(text)) => {
                    options.cpus = Some(value(key, text, |t| number(t).filter(|n| *n > 0))?);
                }
                ("nic", Some(text)) => {
                    options.nic = value(key, text, |t| t.strip_prefix("net").and_then(number))?;
                }
                ("queues", Some(text)) => options.queues = Some(value(key, text, number)?),
                ("queue-size", Some(text)) => options.queue_size = Some(value(key, text, number)?),
                ("mtu", Some(text)) => options.mtu = Some(value(key, text, number)?),
                _ => {}
            }
        }
        Ok(options)
    }

    /// Returns whether any option needs the network.
    pub fn uses_network(&self) -> bool {
        let connects = self.http.is_some() || self.echo.is_some() || self.round_trips.is_some();
        self.dhcp || self.ping.is_some() || connects
    }
}
