//! The device side of a split queue.

use crate::{Chain, Guest, MAX_READABLE, QueueState};
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

/// The device side of a split queue, over rust-vmm's `virtio-queue`.
pub struct SplitDevice {
    guest: Guest,
    queue: Queue,
}

impl SplitDevice {
    /// The device side of the queue that the driver set up, at its first entry.
    pub fn new(guest: &Guest, state: &QueueState, event_idx: bool) -> Self {
        let addresses = state.addresses;
        let mut queue = Queue::new(32768).expect("a queue size");
        queue.set_size(addresses.size);
        let halves = |address: u64| (Some(address as u32), Some((address >> 32) as u32));
        let (low, high) = halves(addresses.desc.0);
        queue.set_desc_table_address(low, high);
        let (low, high) = halves(addresses.driver.0);
        queue.set_avail_ring_address(low, high);
        let (low, high) = halves(addresses.device.0);
        queue.set_used_ring_address(low, high);
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        assert!(
            queue.is_valid(guest.memory().map()),
            "rust-vmm does not accept the queue that the driver set up"
        );
        Self { guest: guest.clone(), queue }
    }

    /// Takes the next available request.
    pub fn pop(&mut self) -> Option<Chain> {
        let chain = self.queue.pop_descriptor_chain(self.guest.memory().map())?;
        let id = chain.head_index();
        let (mut readable, mut writable) = (vec![], vec![]);
        for descriptor in chain {
            if descriptor.is_write_only() {
                writable.push((descriptor.addr().0, descriptor.len()));
            } else if readable.len() < MAX_READABLE {
                readable.extend(self.guest.read(descriptor.addr().0, descriptor.len() as usize));
            }
        }
        Some(Chain { id, entries: 1, readable, writable })
    }

    /// Marks request `id` as used, with `len` as the number of bytes written.
    pub fn push(&mut self, id: u16, len: u32) {
        // The driver may have changed the table since: then there is nothing to complete.
        let memory = self.guest.memory();
        memory.checked(self.queue.add_used(memory.map(), id, len));
    }

    /// Enables kicks and returns whether a request became available meanwhile.
    pub fn enable_notification(&mut self) -> bool {
        self.queue.enable_notification(self.guest.memory().map()).expect("the used ring")
    }

    /// Whether the driver wants an interrupt for the requests used since the last call.
    pub fn needs_notification(&mut self) -> bool {
        self.queue.needs_notification(self.guest.memory().map()).expect("the available ring")
    }

    /// Disables kicks.
    pub fn disable_notification(&mut self) {
        self.queue.disable_notification(self.guest.memory().map()).expect("the used ring");
    }

    /// Fault injection: writes a used element with `id` and `len`, and `index` as the used index.
    pub fn forge(guest: &Guest, state: &QueueState, index: u16, id: u32, len: u32) {
        let used = state.addresses.device.0;
        let slot = u64::from(index.wrapping_sub(1) & (state.addresses.size - 1));
        guest.write(used + 4 + slot * 8, &id.to_le_bytes());
        guest.write(used + 8 + slot * 8, &len.to_le_bytes());
        guest.memory().map().write_obj(index.to_le(), GuestAddress(used + 2)).expect("the used ring");
    }
}
