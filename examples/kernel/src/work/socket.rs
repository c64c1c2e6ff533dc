//! `socket=PORT`: connects to a port of the host, sends it a pattern, and checks the echo. `socket-echo=PORT`: lets the
//! host connect, and sends back what comes, once.

use super::devices::Devices;
use super::options::Options;
use crate::arch::time;
use crate::platform::{self, Machine};
use crate::say;
use alloc::string::{String, ToString};
use alloc::vec;
use core::time::Duration;
use paravirt::AnySockets;
use paravirt_device::{Arm, Notify, SocketId, SocketState, Sockets};
use sha2::{Digest, Sha256};

/// Bytes that are sent: more than either side has room for at once.
const BYTES: usize = 1 << 20;
const CHUNK: usize = 8192;
const TIMEOUT: Duration = Duration::from_secs(30);

/// Works until `done` answers, halting in between.
fn until<R>(
    sockets: &mut AnySockets<Machine>,
    what: &str,
    mut done: impl FnMut(&mut AnySockets<Machine>) -> Result<Option<R>, String>,
) -> Result<R, String> {
    let deadline = time::now().saturating_add(TIMEOUT);
    loop {
        sockets.poll().map_err(|fault| fault.to_string())?;
        if let Some(result) = done(sockets)? {
            return Ok(result);
        }
        if time::now() >= deadline {
            return Err(alloc::format!("socket: {what} takes too long"));
        }
        let until = deadline.min(sockets.next_deadline());
        platform::sleep(until, || sockets.arm() == Arm::Pending);
    }
}

/// Whether nothing more comes.
fn is_over(sockets: &AnySockets<Machine>, socket: SocketId) -> bool {
    !matches!(sockets.state(socket), Some(SocketState::Open { is_ended: false }))
}

fn byte(at: usize) -> u8 {
    (at.wrapping_mul(2_654_435_761) >> 13) as u8
}

fn ask(sockets: &mut AnySockets<Machine>, port: u32) -> Result<(), String> {
    let socket = sockets.connect(port).map_err(|error| error.to_string())?;
    until(sockets, "the connection", |sockets| match sockets.state(socket) {
        Some(SocketState::Connecting) => Ok(None),
        Some(SocketState::Open { .. }) => Ok(Some(())),
        Some(SocketState::Closed(reason)) => Err(alloc::format!("socket: {reason}")),
        None => Err("socket: it is gone".into()),
    })?;
    let (mut sent, mut received, mut is_same) = (0, 0, true);
    let mut chunk = vec![0u8; CHUNK];
    until(sockets, "the echo", |sockets| {
        loop {
            let mut out = 0;
            // Once all is sent, the host may end it.
            if sent < BYTES {
                let most = CHUNK.min(BYTES - sent);
                chunk[..most].iter_mut().enumerate().for_each(|(at, to)| *to = byte(sent + at));
                out = sockets.send(socket, &chunk[..most]).map_err(|error| error.to_string())?;
                sent += out;
                if sent == BYTES {
                    sockets.finish(socket).map_err(|error| error.to_string())?;
                }
            }
            let came = sockets.receive(socket, &mut chunk).map_err(|error| error.to_string())?;
            is_same &= chunk[..came].iter().enumerate().all(|(at, is)| *is == byte(received + at));
            received += came;
            if is_over(sockets, socket) || out == 0 && came == 0 {
                return Ok(is_over(sockets, socket).then_some(()));
            }
        }
    })?;
    sockets.close(socket);
    say!("socket=done port={port} sent={sent} received={received} same={is_same}");
    if received == BYTES && is_same { Ok(()) } else { Err("socket: the echo differs".into()) }
}

fn echo(sockets: &mut AnySockets<Machine>, port: u32) -> Result<(), String> {
    sockets.listen(port).map_err(|error| error.to_string())?;
    say!("socket=listening port={port}");
    let socket = until(sockets, "a connection", |sockets| Ok(sockets.accept(port)))?;
    let mut hash = Sha256::new();
    let (mut total, mut waiting) = (0, vec![]);
    let mut chunk = vec![0u8; CHUNK];
    until(sockets, "the echo", |sockets| {
        loop {
            if !waiting.is_empty() {
                let sent = sockets.send(socket, &waiting).map_err(|error| error.to_string())?;
                waiting.drain(..sent);
                if !waiting.is_empty() {
                    return Ok(None);
                }
            }
            let count = sockets.receive(socket, &mut chunk).map_err(|error| error.to_string())?;
            if count == 0 {
                return Ok(is_over(sockets, socket).then_some(()));
            }
            hash.update(&chunk[..count]);
            total += count;
            waiting.extend_from_slice(&chunk[..count]);
        }
    })?;
    sockets.finish(socket).map_err(|error| error.to_string())?;
    sockets.close(socket);
    say!("socket=echoed port={port} bytes={total} sha256={}", super::mount::hex(&hash.finalize()));
    Ok(())
}

pub fn run(devices: &mut Devices, options: &Options) -> Result<(), String> {
    if options.socket.is_none() && options.socket_echo.is_none() {
        return Ok(());
    }
    let sockets = &mut devices.sockets.first_mut().ok_or("there are no sockets to the host")?.device;
    sockets.register(&platform::waker());
    if let Some(port) = options.socket {
        ask(sockets, port)?;
    }
    if let Some(port) = options.socket_echo {
        echo(sockets, port)?;
    }
    // What was sent last is not to be lost with the machine.
    until(sockets, "the end", |sockets| {
        Ok(sockets.is_flushed().map_err(|fault| fault.to_string())?.then_some(()))
    })
}
