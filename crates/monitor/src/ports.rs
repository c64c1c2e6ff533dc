//! I/O ports of the machine: the serial port, and those that power it off or reset it.

use anyhow::Result;
use std::io::{Stdout, Write};
use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

/// The first serial port.
pub const SERIAL: u16 = 0x3f8;
pub const SERIAL_GSI: u32 = 4;
/// The PM1 event registers of ACPI: status and enable.
pub const PM1_EVENT: u16 = 0x620;
/// The PM1 control register of ACPI.
pub const PM1_CONTROL: u16 = 0x624;
/// The sleep type of state S5 (off).
pub const SLEEP_S5: u8 = 5;
pub const RESET: u16 = 0x601;
pub const RESET_VALUE: u8 = 1;
/// QEMU's isa-debug-exit.
const DEBUG_EXIT: u16 = 0xf4;
/// The command port of the keyboard controller, which can reset the machine.
const KEYBOARD: u16 = 0x64;
const PM1_ENABLE: u16 = PM1_EVENT + 2;
/// Bit 0 of PM1_CONTROL: ACPI mode is on.
const SCI_ENABLE: u8 = 1;
/// Bit 13 of PM1_CONTROL, in its upper byte: enter the sleep state.
const SLEEP_ENABLE: u8 = 1 << 5;

/// Why the machine stopped.
#[derive(Debug)]
pub enum End {
    /// The guest wrote this value to the port of isa-debug-exit.
    Debug(u8),
    /// The guest powered off.
    Off,
    /// The guest requested a reset.
    Reset,
    /// A fault, with its description.
    Fault(String),
}

/// The interrupt line of the serial port.
pub struct Line(pub EventFd);

impl Trigger for Line {
    type E = std::io::Error;
    fn trigger(&self) -> std::io::Result<()> {
        self.0.write(1)
    }
}

/// The output of the serial port: it is copied to standard output by lines, and searched for texts that trigger actions.
pub struct Console {
    out: Stdout,
    line: Vec<u8>,
    triggers: Vec<(String, Action)>,
    pending: Vec<Action>,
}

/// What to do when the guest has written a text.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Action {
    /// Request a shutdown, once.
    Shutdown,
    /// Play the input script, once.
    Type,
    /// Print the counts, each time.
    PrintCounts,
}

/// Maximum length of a line in bytes; a longer one is written in parts.
const LINE: usize = 4096;

impl Console {
    /// Creates a console that triggers an action when a line contains its text.
    pub fn new(triggers: Vec<(String, Action)>) -> Self {
        Self { out: std::io::stdout(), line: vec![], triggers, pending: vec![] }
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
            let found = self.triggers.iter().filter(|(text, _)| line.contains(text.as_str()));
            let found: Vec<Action> = found.map(|(_, action)| *action).collect();
            // The other actions run once.
            self.triggers.retain(|(_, action)| *action == Action::PrintCounts || !found.contains(action));
            self.pending.extend(found);
        }
        Ok(bytes.len())
    }
    /// Does nothing: the serial port calls it for each byte, but output is written by lines.
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The I/O ports.
pub struct Ports {
    serial: Serial<Line, NoEvents, Console>,
    pm1_enable: u16,
}

impl Ports {
    /// Creates the ports; the serial port interrupts by `line`.
    pub fn new(line: EventFd, console: Console) -> Self {
        Self { serial: Serial::new(Line(line), console), pm1_enable: 0 }
    }

    /// Handles a write of the guest; returns why the machine stops, if the write stops it.
    ///
    /// # Errors
    ///
    /// Standard output or the interrupt line cannot be written.
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

    /// Takes the actions triggered since the last call.
    pub fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.serial.writer_mut().pending)
    }

    /// Handles a read of the guest. Unassigned ports read as all ones.
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

    /// Writes the incomplete last line to standard output.
    pub fn finish(&mut self) -> std::io::Result<()> {
        let console = self.serial.writer_mut();
        console.out.write_all(&std::mem::take(&mut console.line))?;
        console.out.flush()
    }
}
