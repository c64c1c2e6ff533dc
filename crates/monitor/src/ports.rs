//! Ports of the machine: a serial port, and those by which it ends.

use anyhow::Result;
use std::io::{Stdout, Write};
use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

/// The first serial port.
pub const SERIAL: u16 = 0x3f8;
pub const SERIAL_GSI: u32 = 4;
/// Events of ACPI: status and enable.
pub const PM1_EVENT: u16 = 0x620;
/// Control of ACPI: how the machine sleeps.
pub const PM1_CONTROL: u16 = 0x624;
/// What is written there for off.
pub const SLEEP_S5: u8 = 5;
pub const RESET: u16 = 0x601;
pub const RESET_VALUE: u8 = 1;
/// QEMU's isa-debug-exit.
const DEBUG_EXIT: u16 = 0xf4;
/// The keyboard controller, which can reset.
const KEYBOARD: u16 = 0x64;
const PM1_ENABLE: u16 = PM1_EVENT + 2;
/// In PM1_CONTROL: ACPI is on; begin to sleep.
const SCI_ENABLE: u8 = 1;
const SLEEP_ENABLE: u8 = 1 << 5;

/// How a machine ends.
#[derive(Debug)]
pub enum End {
    /// The guest has written this to the port of isa-debug-exit.
    Debug(u8),
    /// It has switched off.
    Off,
    /// It has asked for a reset.
    Reset,
    /// It cannot go on.
    Fault(String),
}

pub struct Line(pub EventFd);

impl Trigger for Line {
    type E = std::io::Error;
    fn trigger(&self) -> std::io::Result<()> {
        self.0.write(1)
    }
}

/// Where the serial port writes: standard output. It hears texts that are looked for.
pub struct Console {
    out: Stdout,
    line: Vec<u8>,
    watches: Vec<(String, Wish)>,
    heard: Vec<Wish>,
}

/// What a user wants when the guest has written a text.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Wish {
    /// That it ends.
    End,
    /// That somebody types.
    Type,
    /// That what was counted is said, each time.
    Count,
}

/// Bytes of a line that are kept back until it is whole.
const LINE: usize = 4096;

impl Console {
    /// A console that hears when a line has one of these texts in it.
    pub fn new(watches: Vec<(String, Wish)>) -> Self {
        Self { out: std::io::stdout(), line: vec![], watches, heard: vec![] }
    }
}

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        for byte in bytes {
            self.line.push(*byte);
            if *byte != b'\n' && self.line.len() < LINE {
                continue;
            }
            let line = std::mem::take(&mut self.line);
            self.out.write_all(&line)?;
            let line = String::from_utf8_lossy(&line);
            let heard = self.watches.iter().filter(|(text, _)| line.contains(text.as_str()));
            let heard: Vec<Wish> = heard.map(|(_, wish)| *wish).collect();
            // The others are granted once.
            self.watches.retain(|(_, wish)| *wish == Wish::Count || !heard.contains(wish));
            self.heard.extend(heard);
        }
        Ok(bytes.len())
    }
    /// The port asks for it with each byte; lines are written whole.
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The ports.
pub struct Ports {
    serial: Serial<Line, NoEvents, Console>,
    pm1_enable: u16,
}

impl Ports {
    /// Ports whose serial one raises `line`.
    pub fn new(line: EventFd, console: Console) -> Self {
        Self { serial: Serial::new(Line(line), console), pm1_enable: 0 }
    }

    /// The guest writes; how the machine ends by it, if it does.
    pub fn write(&mut self, port: u16, data: &[u8]) -> Result<Option<End>> {
        let first = data.first().copied().unwrap_or(0);
        Ok(match port {
            SERIAL..0x400 => {
                for byte in data {
                    self.serial
                        .write((port - SERIAL) as u8, *byte)
                        .map_err(|error| anyhow::anyhow!("{error:?}"))?;
                }
                None
            }
            DEBUG_EXIT => Some(End::Debug(first)),
            KEYBOARD if first == 0xfe => Some(End::Reset),
            RESET if first == RESET_VALUE => Some(End::Reset),
            PM1_ENABLE if data.len() == 2 => {
                self.pm1_enable = u16::from_le_bytes([data[0], data[1]]);
                None
            }
            PM1_CONTROL if data.len() == 2 && data[1] & SLEEP_ENABLE != 0 && data[1] >> 2 & 7 == SLEEP_S5 => {
                Some(End::Off)
            }
            _ => None,
        })
    }

    /// What is wanted by what the guest has written since this was asked last.
    pub fn take_wishes(&mut self) -> Vec<Wish> {
        std::mem::take(&mut self.serial.writer_mut().heard)
    }

    /// The guest reads.
    pub fn read(&mut self, port: u16, data: &mut [u8]) {
        data.fill(match port {
            PM1_EVENT..PM1_CONTROL | KEYBOARD => 0,
            _ => 0xff,
        });
        match port {
            SERIAL..0x400 => data[0] = self.serial.read((port - SERIAL) as u8),
            PM1_ENABLE if data.len() == 2 => data.copy_from_slice(&self.pm1_enable.to_le_bytes()),
            PM1_CONTROL => {
                data.fill(0);
                data[0] = SCI_ENABLE;
            }
            _ => {}
        }
    }

    /// Writes out the line that was begun.
    pub fn finish(&mut self) -> std::io::Result<()> {
        let console = self.serial.writer_mut();
        console.out.write_all(&std::mem::take(&mut console.line))?;
        console.out.flush()
    }
}
