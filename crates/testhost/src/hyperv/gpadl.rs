//! GPADLs: guest memory that is shared with the host.

use super::bus::{Bus, Controller, FAILURE, header};
use super::channel::Channel;
use super::devices::address;
use hyperv_bindings::vmbus::*;

pub(crate) struct Gpadl {
    pub channel: u32,
    pub frames: Vec<u64>,
    expected: usize,
    pub is_created: bool,
    /// Its teardown is not answered.
    pub is_stuck: bool,
}

impl Bus {
    pub(super) fn gpadl_header(
        &mut self,
        synic: &mut dyn Controller,
        message: &VmbusGpadlHeader,
        bytes: &[u8],
    ) {
        let VmbusGpadlHeader {
            channel_id,
            gpadl_id,
            range_buffer_len,
            range_count,
            byte_count,
            byte_offset,
            ..
        } = *message;
        let pages = (byte_count as usize).div_ceil(4096);
        let is_whole = byte_offset == 0 && byte_count % 4096 == 0 && range_count == 1 && pages > 0;
        if !is_whole || usize::from(range_buffer_len) != 8 + pages * 8 {
            return self.violation("a GPADL of a shape that some hosts do not know");
        }
        if gpadl_id == 0 || self.gpadls.contains_key(&gpadl_id) {
            return self.violation("a GPADL whose id is 0 or in use");
        }
        if !self.channels.contains_key(&channel_id) {
            return self.violation("a GPADL for no channel");
        }
        let gpadl = Gpadl {
            channel: channel_id,
            frames: vec![],
            expected: pages,
            is_created: false,
            is_stuck: false,
        };
        self.gpadls.insert(gpadl_id, gpadl);
        self.gpadl_frames(synic, gpadl_id, &bytes[size_of::<VmbusGpadlHeader>()..]);
    }

    pub(super) fn gpadl_frames(&mut self, synic: &mut dyn Controller, id: u32, bytes: &[u8]) {
        let Some(gpadl) = self.gpadls.get_mut(&id) else { return };
        let left = gpadl.expected - gpadl.frames.len();
        let before = gpadl.frames.len();
        let words =
            bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")));
        gpadl.frames.extend(words.take(left));
        let is_memory = gpadl.frames[before..].iter().all(|frame| address(*frame, 0).is_some());
        if is_memory && gpadl.frames.len() < gpadl.expected {
            return;
        }
        let status = if is_memory { self.faults.gpadl_status } else { FAILURE };
        gpadl.is_created = true;
        let channel_id = gpadl.channel;
        if !is_memory {
            self.violation("a GPADL with memory beyond all addresses");
        }
        if status != 0 {
            self.gpadls.remove(&id);
        }
        let header = header(VmbusMessageType::GPADL_CREATED);
        self.say(synic, &VmbusGpadlCreated { header, channel_id, gpadl_id: id, status });
    }

    pub(super) fn gpadl_teardown(&mut self, synic: &mut dyn Controller, message: &VmbusGpadlTeardown) {
        let VmbusGpadlTeardown { channel_id, gpadl_id, .. } = *message;
        let is_open = |channel: &Channel| channel.open.as_ref().is_some_and(|open| open.gpadl == gpadl_id);
        if self.channels.get(&channel_id).is_some_and(is_open) {
            return self.violation("a GPADL is torn down under an open channel");
        }
        if self.gpadls.get(&gpadl_id).is_some_and(|gpadl| gpadl.is_stuck) {
            return;
        }
        match self.gpadls.remove(&gpadl_id) {
            Some(gpadl) if gpadl.channel == channel_id && gpadl.is_created => {
                let header = header(VmbusMessageType::GPADL_TORNDOWN);
                self.say(synic, &VmbusGpadlTorndown { header, gpadl_id });
            }
            _ => self.violation("a GPADL is torn down that there is not"),
        }
    }
}
