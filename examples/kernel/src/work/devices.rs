//! The devices of the machine, as the front door hands them over.

use super::options::Options;
use crate::platform::Machine;
use alloc::string::String;
use alloc::vec::Vec;
use alloc::{boxed::Box, format};
use paravirt::{AnyConsole, AnyEntropy, Block, BlockQ, Device, Firmware, Net, NetQ, Passed, Undriven};
use paravirt_device::BlockDevice;
use paravirt_platform::DmaSlice;

/// What this kernel moves into requests.
pub type Buffer = DmaSlice<Machine>;
pub type Disk = Block<Machine, Buffer>;
pub type DiskQueue = BlockQ<Machine, Buffer>;
pub type Card = Net<Machine, Buffer>;
pub type CardQueue = NetQ<Machine, Buffer>;

/// A device and where it is.
pub struct At<T> {
    pub address: paravirt::Address,
    pub device: T,
}

/// The devices, each kind numbered in bus order.
#[derive(Default)]
pub struct Devices {
    pub disks: Vec<At<Box<Disk>>>,
    pub cards: Vec<At<Box<Card>>>,
    pub consoles: Vec<At<AnyConsole<Machine>>>,
    pub entropy: Vec<At<AnyEntropy<Machine>>>,
    pub passed: Vec<At<Passed<Machine>>>,
    pub undriven: Vec<At<Undriven>>,
}

impl Devices {
    /// Finds them: the one place that depends on what the host is.
    pub fn find(rsdp: Option<u64>, command_line: &str, options: &Options) -> Self {
        let mut devices = Self::default();
        let firmware = Firmware { rsdp, command_line };
        let mut open =
            paravirt::Options { queues: options.queues, pass_disks: options.peer, ..Default::default() };
        if let Some(size) = options.queue_size {
            open.queue_size = size;
        }
        // SAFETY: this is a virtual machine, its firmware describes it, and nobody else drives its devices.
        unsafe {
            paravirt::probe(&Machine, &firmware, &open, &mut |found| {
                let address = found.address;
                match found.device {
                    Device::Block(device) => devices.disks.push(At { address, device: Box::new(device) }),
                    Device::Net(device) => devices.cards.push(At { address, device: Box::new(device) }),
                    Device::Console(device) => devices.consoles.push(At { address, device }),
                    Device::Entropy(device) => devices.entropy.push(At { address, device }),
                    Device::Passed(device) => devices.passed.push(At { address, device }),
                    Device::Undriven(device) => devices.undriven.push(At { address, device }),
                    _ => {}
                }
            });
        }
        devices
    }

    /// Disk `index`.
    pub fn disk(&mut self, index: usize) -> Result<&mut Disk, String> {
        let count = self.disks.len();
        self.disks
            .get_mut(index)
            .map(|d| &mut *d.device)
            .ok_or_else(|| format!("there is no disk{index}: {count} in all"))
    }

    /// The queues of disk `index` that nobody has taken.
    pub fn disk_queues(&mut self, index: usize) -> Result<Vec<DiskQueue>, String> {
        let disk = self.disk(index)?;
        let queues: Vec<_> = (0..disk.info().queues).filter_map(|queue| disk.take_queue(queue)).collect();
        if queues.is_empty() { Err(format!("the queues of disk{index} are taken")) } else { Ok(queues) }
    }
}
