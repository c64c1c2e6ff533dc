//! `socket=PORT`: connects to a port of the host, sends a pattern, and checks the echo. `socket-echo=PORT`: accepts one connection
//! from the host and echoes what it receives.

use super::devices::Devices;
use super::options::Options;
use crate::arch::time;
use crate::platform::{self, Machine};
use crate::println;
use alloc::string::{String, ToString};
use alloc::vec;
use core::time::Duration;
use paravirt::AnySockets;
use paravirt_device::{Notify, SocketId, SocketState, Sockets};
use sha2::{Digest, Sha256};

/// How many bytes are sent: more than the buffers of both sides hold.
const BYTES: usize = 1 << 20;
const CHUNK: usize = 8192;
const TIMEOUT: Duration = Duration::from_secs(30);

/// Polls the device until `done` returns a result, halting in between; an error after [`TIMEOUT`].
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
            return Err(alloc::format!("socket: timeout while waiting for {what}"));
        }
        let until = deadline.min(sockets.next_deadline());
        platform::sleep(until, || sockets.arm());
    }
}

/// Returns whether the peer sends nothing more.
fn is_ended(sockets: &AnySockets<Machine>, socket: SocketId) -> bool {
    !matches!(sockets.state(socket), Some(SocketState::Open { is_ended: false }))
}

/// Returns the pattern's byte at offset `at`.
fn byte(at: usize) -> u8 {
    (at.wrapping_mul(2_654_435_761) >> 13) as u8
}

/// Connects to `port` of the host, sends the pattern and checks the echo.
fn connect_and_check(sockets: &mut AnySockets<Machine>, port: u32) -> Result<(), String> {
    let socket = sockets.connect(port).map_err(|error| error.to_string())?;
    until(sockets, "the connection", |sockets| match sockets.state(socket) {
        Some(SocketState::Connecting) => Ok(None),
        Some(SocketState::Open { .. }) => Ok(Some(())),
        Some(SocketState::Closed(reason)) => Err(alloc::format!("socket: {reason}")),
        None => Err("socket: the connection was removed".into()),
    })?;
    let (mut sent, mut received, mut is_same) = (0, 0, true);
    let mut chunk = vec![0u8; CHUNK];
    until(sockets, "the echo", |sockets| {
        loop {
            let mut out = 0;
            // After the last byte the host may end the connection.
            if sent < BYTES {
                let len = CHUNK.min(BYTES - sent);
                chunk[..len].iter_mut().enumerate().for_each(|(at, to)| *to = byte(sent + at));
                out = sockets.send(socket, &chunk[..len]).map_err(|error| error.to_string())?;
                sent += out;
                if sent == BYTES {
                    sockets.finish(socket).map_err(|error| error.to_string())?;
                }
            }
            let count = sockets.receive(socket, &mut chunk).map_err(|error| error.to_string())?;
            is_same &= chunk[..count].iter().enumerate().all(|(at, is)| *is == byte(received + at));
            received += count;
            if is_ended(sockets, socket) || out == 0 && count == 0 {
                return Ok(is_ended(sockets, socket).then_some(()));
            }
        }
    })?;
    sockets.close(socket);
    println!("socket=done port={port} sent={sent} received={received} same={is_same}");
    if received == BYTES && is_same { Ok(()) } else { Err("socket: the echo differs".into()) }
}

/// Accepts one connection to `port` and echoes what it receives.
fn echo(sockets: &mut AnySockets<Machine>, port: u32) -> Result<(), String> {
    sockets.listen(port).map_err(|error| error.to_string())?;
    println!("socket=listening port={port}");
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
                return Ok(is_ended(sockets, socket).then_some(()));
            }
            hash.update(&chunk[..count]);
            total += count;
            waiting.extend_from_slice(&chunk[..count]);
        }
    })?;
    sockets.finish(socket).map_err(|error| error.to_string())?;
    sockets.close(socket);
    println!("socket=echoed port={port} bytes={total} sha256={}", super::mount::hex(&hash.finalize()));
    Ok(())
}

/// Runs the socket parts that `options` select.
pub fn run(devices: &mut Devices, options: &Options) -> Result<(), String> {
    if options.socket.is_none() && options.socket_echo.is_none() {
        return Ok(());
    }
    let sockets = &mut devices.sockets.first_mut().ok_or("socket: there is no socket device")?.device;
    sockets.register(&platform::waker());
    if let Some(port) = options.socket {
        connect_and_check(sockets, port)?;
    }
    if let Some(port) = options.socket_echo {
        echo(sockets, port)?;
    }
    // The last bytes must be sent before the machine is powered off.
    until(sockets, "pending data to be sent", |sockets| {
        Ok(sockets.is_flushed().map_err(|fault| fault.to_string())?.then_some(()))
    })
}
