//! `round-trips=ADDRESS`: how long some bytes take to a server that echoes, and back.

use super::{Stack, TCP_TIMEOUT};
use crate::arch::time;
use crate::say;
use alloc::format;
use alloc::string::String;
use core::time::Duration;
use smoltcp::socket::tcp;
use smoltcp::wire::{IpAddress, Ipv4Address};

const COUNT: u64 = 500;
const BYTES: usize = 64;

impl Stack {
    /// Sends and gets back, one after the other, by one connection.
    pub(super) fn round_trips(&mut self, address: Ipv4Address, port: u16) -> Result<(), String> {
        let handle = self.tcp();
        self.connect(handle, (IpAddress::Ipv4(address), port))?;
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
        socket.set_nagle_enabled(false);
        self.until(TCP_TIMEOUT, |stack| {
            let socket = stack.sockets.get_mut::<tcp::Socket<'_>>(handle);
            (socket.may_send() || !socket.is_open()).then_some(())
        })
        .ok_or_else(|| format!("round-trips: nobody answers at {address}:{port}"))?;
        let start = time::now();
        for trip in 0..COUNT {
            let sent = [trip as u8; BYTES];
            let (mut back, mut got) = ([0; BYTES], 0);
            let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
            // All of it fits: nothing else is on its way.
            socket.send_slice(&sent).map_err(|e| format!("round-trips: {e}"))?;
            self.until(TCP_TIMEOUT, |stack| {
                let socket = stack.sockets.get_mut::<tcp::Socket<'_>>(handle);
                got += socket.recv_slice(&mut back[got..]).unwrap_or(0);
                (got == BYTES || !socket.may_recv()).then_some(())
            });
            if back != sent {
                return Err(format!("round-trips: the echo of {BYTES} bytes differs, or has {got}"));
            }
        }
        let micros = time::now().since(start).as_micros();
        self.sockets.get_mut::<tcp::Socket<'_>>(handle).close();
        self.until(Duration::from_secs(1), |stack| {
            let state = stack.sockets.get::<tcp::Socket<'_>>(handle).state();
            matches!(state, tcp::State::Closed | tcp::State::TimeWait).then_some(())
        });
        self.sockets.remove(handle);
        say!("round-trips=done count={COUNT} micros={micros}");
        Ok(())
    }
}
