//! The devices of the machine, as the front door hands them over.

use super::options::Options;
use crate::platform::Machine;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use alloc::{boxed::Box, format};
use paravirt::{
    AnyBalloon, AnyConsole, AnyEntropy, Block, BlockQ, Device, Firmware, Net, NetQ, Passed, Services,
    Undriven,
};
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
pub struct Devices {
    pub disks: Vec<At<Box<Disk>>>,
    pub cards: Vec<At<Box<Card>>>,
    pub consoles: Vec<At<AnyConsole<Machine>>>,
    pub entropy: Vec<At<AnyEntropy<Machine>>>,
    pub balloons: Vec<At<Box<AnyBalloon<Machine>>>>,
    pub passed: Vec<At<Passed<Machine>>>,
    pub undriven: Vec<At<Undriven>>,
    /// Last, so that devices go before the buses that they are on.
    pub services: Services<Machine>,
}

impl Devices {
    /// Finds them: the one place that depends on what the host is.
    pub fn find(rsdp: Option<u64>, command_line: &str, options: &Options) -> Self {
        let firmware = Firmware { rsdp, command_line };
        let mut open =
            paravirt::Options { queues: options.queues, pass_disks: options.peer, ..Default::default() };
        if let Some(size) = options.queue_size {
            open.queue_size = size;
        }
        if let Some(version) = options.vmbus {
            open.vmbus = version;
        }
        let (mut disks, mut cards, mut consoles, mut entropy) = (vec![], vec![], vec![], vec![]);
        let (mut balloons, mut passed, mut undriven) = (vec![], vec![], vec![]);
        // SAFETY: this is a virtual machine, its firmware describes it, and nobody else drives its devices.
        let services = unsafe {
            paravirt::probe(&Machine, &firmware, &open, &mut |found| {
                let address = found.address;
                match found.device {
                    Device::Block(device) => disks.push(At { address, device: Box::new(device) }),
                    Device::Net(device) => cards.push(At { address, device: Box::new(device) }),
                    Device::Console(device) => consoles.push(At { address, device }),
                    Device::Entropy(device) => entropy.push(At { address, device }),
                    Device::Balloon(device) => balloons.push(At { address, device: Box::new(device) }),
                    Device::Passed(device) => passed.push(At { address, device }),
                    Device::Undriven(device) => undriven.push(At { address, device }),
                    _ => {}
                }
            })
        };
        Self { disks, cards, consoles, entropy, balloons, passed, undriven, services }
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
