//! `round-trips=ADDRESS`: measures round trips of a few bytes to an echo server.

use super::{Stack, TCP_TIMEOUT};
use crate::arch::time;
use crate::println;
use alloc::format;
use alloc::string::String;
use core::time::Duration;
use smoltcp::socket::tcp;
use smoltcp::wire::{IpAddress, Ipv4Address};

const COUNT: u64 = 500;
const BYTES: usize = 64;

impl Stack {
    /// Sends messages of 64 bytes over one connection and waits for the echo of each.
    pub(super) fn round_trips(&mut self, address: Ipv4Address, port: u16) -> Result<(), String> {
        let handle = self.tcp();
        self.connect(handle, (IpAddress::Ipv4(address), port))?;
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
        socket.set_nagle_enabled(false);
        self.until(TCP_TIMEOUT, |stack| {
            let socket = stack.sockets.get_mut::<tcp::Socket<'_>>(handle);
            (socket.may_send() || !socket.is_open()).then_some(())
        })
        .ok_or_else(|| format!("round-trips: cannot connect to {address}:{port}"))?;
        let start = time::now();
        for trip in 0..COUNT {
            let sent = [trip as u8; BYTES];
            let (mut back, mut got) = ([0; BYTES], 0);
            let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
            // It fits in the socket's buffer: nothing else is in flight.
            socket.send_slice(&sent).map_err(|e| format!("round-trips: {e}"))?;
            self.until(TCP_TIMEOUT, |stack| {
                let socket = stack.sockets.get_mut::<tcp::Socket<'_>>(handle);
                got += socket.recv_slice(&mut back[got..]).unwrap_or(0);
                (got == BYTES || !socket.may_recv()).then_some(())
            });
            if back != sent {
                return Err(format!("round-trips: the echo differs, or has {got} of {BYTES} bytes"));
            }
        }
        let micros = time::now().since(start).as_micros();
        self.sockets.get_mut::<tcp::Socket<'_>>(handle).close();
        self.until(Duration::from_secs(1), |stack| {
            let state = stack.sockets.get::<tcp::Socket<'_>>(handle).state();
            matches!(state, tcp::State::Closed | tcp::State::TimeWait).then_some(())
        });
        self.sockets.remove(handle);
        println!("round-trips=done count={COUNT} micros={micros}");
        Ok(())
    }
}
