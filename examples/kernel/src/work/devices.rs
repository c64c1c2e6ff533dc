//! The devices of the machine, as `paravirt::probe` returns them.

use super::mount::blocking;
use super::options::{Options, number};
use crate::memory;
use crate::platform::Machine;
use crate::println;
use crate::stack;
use alloc::string::String;
use alloc::vec::Vec;
use alloc::{boxed::Box, format};
use core::fmt;
use core::ops::{Deref, DerefMut};
use paravirt::{
    Address, AnyBalloon, AnyConsole, AnyEntropy, AnyInput, AnySockets, Block, BlockQ, Device, Event,
    Firmware, Net, NetQ, Passthrough, Services, Unclaimed,
};
use paravirt_device::BlockDevice;
use paravirt_platform::DmaSlice;

/// The buffers of this kernel's requests.
pub type Buffer = DmaSlice<Machine>;
pub type Disk = Block<Machine, Buffer>;
pub type DiskQueue = BlockQ<Machine, Buffer>;
pub type Card = Net<Machine, Buffer>;
pub type CardQueue = NetQ<Machine, Buffer>;

/// How the command line names a disk.
pub enum DiskName {
    /// `disk0`, `disk1`, …: in the order of addresses.
    Index(usize),
    /// `serial:…`: its serial number, with `_` for a space.
    Serial(String),
    /// `at:…`: its address, as `list` prints it.
    Address(String),
}

impl DiskName {
    pub fn parse(text: &str) -> Option<Self> {
        let name = |prefix| text.strip_prefix(prefix).filter(|name| !name.is_empty());
        name("disk")
            .and_then(number)
            .map(Self::Index)
            .or_else(|| name("serial:").map(|serial| Self::Serial(serial.into())))
            .or_else(|| name("at:").map(|address| Self::Address(address.into())))
    }
}

impl fmt::Display for DiskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index(index) => write!(f, "disk{index}"),
            Self::Serial(serial) => write!(f, "disk with serial {serial}"),
            Self::Address(address) => write!(f, "disk at {address}"),
        }
    }
}

/// A device and its address.
pub struct At<T> {
    pub address: paravirt::Address,
    pub device: T,
}

/// The devices that were found. Those of a kind are numbered in bus order.
#[derive(Default)]
pub struct Found {
    pub disks: Vec<At<Box<Disk>>>,
    pub cards: Vec<At<Box<Card>>>,
    pub consoles: Vec<At<AnyConsole<Machine>>>,
    pub entropy: Vec<At<AnyEntropy<Machine>>>,
    pub sockets: Vec<At<Box<AnySockets<Machine>>>>,
    pub inputs: Vec<At<Box<AnyInput<Machine>>>>,
    pub balloons: Vec<At<Box<AnyBalloon<Machine>>>>,
    pub passthrough: Vec<At<Passthrough<Machine>>>,
    pub unclaimed: Vec<At<Unclaimed>>,
    /// Queues that no part uses now, by the index of their disk.
    queues: Vec<(usize, Vec<DiskQueue>)>,
}

impl Found {
    fn add(&mut self, found: paravirt::Found<Machine, Buffer>) {
        let address = found.address;
        match found.device {
            Device::Block(device) => self.disks.push(At { address, device: Box::new(device) }),
            Device::Net(device) => self.cards.push(At { address, device: Box::new(device) }),
            Device::Console(device) => self.consoles.push(At { address, device }),
            Device::Entropy(device) => self.entropy.push(At { address, device }),
            Device::Sockets(device) => self.sockets.push(At { address, device: Box::new(device) }),
            Device::Input(device) => self.inputs.push(At { address, device: Box::new(device) }),
            Device::Balloon(device) => self.balloons.push(At { address, device: Box::new(device) }),
            Device::Passthrough(device) => self.passthrough.push(At { address, device }),
            Device::Unclaimed(device) => {
                // Each scan of a controller reports a unit that is not supported.
                self.unclaimed.retain(|known| known.address != address);
                self.unclaimed.push(At { address, device });
            }
            _ => {}
        }
    }

    /// Flushes the disks at `address` that the host asks for: they still work. One that is gone already is not flushed.
    fn flush(&mut self, address: Address) {
        if address.unit.is_some() {
            return;
        }
        for index in 0..self.disks.len() {
            if !self.disks.get(index).is_some_and(|disk| address.covers(&disk.address)) {
                continue;
            }
            let flushed = self.disk_queues(index).and_then(|mut queues| {
                let info = self.disk(index)?.info();
                let mut disk = blocking(queues.remove(0), &info, info.block_size as usize)?;
                disk.flush().map_err(|error| format!("{error}"))
            });
            match flushed {
                Ok(()) => println!("event=flushed device=disk{index}"),
                Err(error) => println!("event=flushed device=disk{index} error=\"{error}\""),
            }
        }
    }

    /// Drops the device at `address`, or those of the controller there.
    fn remove(&mut self, address: Address) {
        let is_there =
            |index: usize| self.disks.get(index).is_some_and(|disk| !address.covers(&disk.address));
        // Indices change only behind the disks that are removed.
        let first = (0..self.disks.len()).find(|index| !is_there(*index)).unwrap_or(usize::MAX);
        self.queues.retain(|(index, _)| *index < first);
        self.disks.retain(|device| !address.covers(&device.address));
        self.cards.retain(|device| !address.covers(&device.address));
        self.consoles.retain(|device| !address.covers(&device.address));
        self.entropy.retain(|device| !address.covers(&device.address));
        self.passthrough.retain(|device| !address.covers(&device.address));
        self.sockets.retain(|device| !address.covers(&device.address));
        self.inputs.retain(|device| !address.covers(&device.address));
        self.balloons.retain(|device| !address.covers(&device.address));
        self.unclaimed.retain(|device| !address.covers(&device.address));
    }

    /// Returns disk `index`, or an error if there is none.
    pub fn disk(&mut self, index: usize) -> Result<&mut Disk, String> {
        let count = self.disks.len();
        self.disks
            .get_mut(index)
            .map(|d| &mut *d.device)
            .ok_or_else(|| format!("there is no disk{index}: {count} in all"))
    }

    /// Takes the queues of disk `index`, the first one first; [`return_queues`](Self::return_queues) puts them back for the next part.
    pub fn disk_queues(&mut self, index: usize) -> Result<Vec<DiskQueue>, String> {
        self.disk(index)?;
        if let Some(at) = self.queues.iter().position(|(disk, _)| *disk == index) {
            return Ok(self.queues.swap_remove(at).1);
        }
        let disk = self.disk(index)?;
        let queues: Vec<_> = (0..disk.info().queues).filter_map(|queue| disk.take_queue(queue)).collect();
        if queues.is_empty() { Err(format!("the queues of disk{index} are taken")) } else { Ok(queues) }
    }

    /// Returns the number of devices of all kinds.
    pub fn count(&self) -> usize {
        let block_to_entropy = self.disks.len() + self.cards.len() + self.consoles.len() + self.entropy.len();
        block_to_entropy
            + self.sockets.len()
            + self.inputs.len()
            + self.balloons.len()
            + self.passthrough.len()
            + self.unclaimed.len()
    }
}

/// The devices, and the services of the host.
pub struct Devices {
    found: Found,
    /// The last field, so that the devices are dropped before their buses.
    pub services: Services<Machine, Buffer>,
}

impl Deref for Devices {
    type Target = Found;
    fn deref(&self) -> &Found {
        &self.found
    }
}

impl DerefMut for Devices {
    fn deref_mut(&mut self) -> &mut Found {
        &mut self.found
    }
}

impl Devices {
    /// Probes for all devices. No other code depends on the kind of host.
    pub fn find(firmware: &Firmware<'_>, options: &Options) -> Self {
        let mut open = paravirt::Options::default();
        (open.queues, open.passthrough_disks) = (options.queues, options.peer);
        open.walks_buses = !options.own_bus;
        open.persistent_grants = options.persistent_grants;
        (open.fifo_events, open.wide_grants) = (!options.two_level, options.wide_grants);
        if let Some(size) = options.queue_size {
            open.queue_size = size;
        }
        if let Some(mtu) = options.mtu {
            open.mtu = mtu;
        }
        if let Some(version) = options.vmbus {
            open.vmbus = version;
        }
        let mut all = Found::default();
        let mut add = |found| all.add(found);
        // SAFETY: this is a virtual machine that its firmware describes, and no other driver uses its devices.
        let mut probe = || unsafe { paravirt::probe(&Machine, firmware, &open, &mut add) };
        let mut services = if options.stack {
            let (services, used) = stack::measure(probe);
            println!("stack=probe bytes={used}");
            services
        } else {
            probe()
        };
        if options.own_bus {
            // SAFETY: no other driver uses the devices: `probe` walked no bus.
            for slot in unsafe { crate::arch::pci::functions() } {
                // SAFETY: as above; firmware has assigned the addresses.
                unsafe { services.open_pci(&slot, &mut |found| all.add(found)) };
            }
        }
        Self { found: all, services }
    }

    /// Adds hot-added devices, drops removed ones, and prints both.
    pub fn poll(&mut self) {
        let Self { found, services } = self;
        services.poll(&mut |event| match event {
            Event::Found(new) => {
                println!("event=found at={}", new.address);
                if let Device::Unclaimed(unclaimed) = &new.device {
                    println!("event=unclaimed at={} reason=\"{}\"", new.address, unclaimed.reason);
                }
                found.add(new);
            }
            Event::Removed(address) => {
                found.flush(address);
                found.remove(address);
                println!("event=removed at={address} free_pages={}", memory::statistics().1);
            }
            _ => {}
        });
    }

    /// Returns the index of the disk with this name; an error unless there is exactly one.
    pub fn find_disk(&mut self, name: &DiskName) -> Result<usize, String> {
        let is_named = |at: &At<Box<Disk>>| match name {
            DiskName::Serial(serial) => format!("{}", at.device.info().serial).replace(' ', "_") == *serial,
            DiskName::Address(address) => format!("{}", at.address) == *address,
            DiskName::Index(_) => false,
        };
        if let DiskName::Index(index) = name {
            return self.disk(*index).map(|_| *index);
        }
        let mut named = self.disks.iter().enumerate().filter(|(_, at)| is_named(at)).map(|(index, _)| index);
        match (named.next(), named.next()) {
            (Some(index), None) => Ok(index),
            (Some(_), Some(_)) => Err(format!("there is more than one {name}")),
            (None, _) => Err(format!("there is no {name}: {} in all", self.disks.len())),
        }
    }

    /// Puts queues back that [`disk_queues`](Self::disk_queues) returned.
    pub fn return_queues(&mut self, index: usize, queues: Vec<DiskQueue>) {
        self.queues.push((index, queues));
    }
}
