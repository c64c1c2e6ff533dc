//! A client for QEMU's machine protocol (QMP), with one command at a time.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// A connection to QEMU.
pub struct Qmp {
    reader: BufReader<UnixStream>,
}

impl Qmp {
    /// Connects to the socket; retries for 20 seconds, until QEMU has created it.
    pub fn connect(path: &Path) -> Result<Self> {
        let end = Instant::now() + Duration::from_secs(20);
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() > end => {
                    return Err(error)
                        .with_context(|| format!("cannot connect to QEMU's QMP socket {}", path.display()));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        };
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut qmp = Self { reader: BufReader::new(stream) };
        // The greeting is not awaited: over a serial port it may be lost.
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Waits for the next event of that name.
    pub fn event(&mut self, name: &str) -> Result<Value> {
        loop {
            let mut line = String::new();
            if self.reader.read_line(&mut line).with_context(|| format!("waiting for {name}"))? == 0 {
                bail!("QEMU ended without {name}");
            }
            // Other output of the serial port is ignored.
            let message: Value = serde_json::from_str(&line).unwrap_or_default();
            if message.get("event").is_some_and(|event| event == name) {
                return Ok(message);
            }
        }
    }

    /// Runs a command and returns its result.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let line = json!({ "execute": command, "arguments": arguments }).to_string();
        self.reader.get_mut().write_all((line + "\n").as_bytes())?;
        loop {
            let mut line = String::new();
            if self.reader.read_line(&mut line)? == 0 {
                bail!("QEMU ended during {command}");
            }
            let answer: Value = serde_json::from_str(&line).unwrap_or_default();
            if let Some(error) = answer.get("error") {
                bail!("{command}: {error}");
            }
            if let Some(value) = answer.get("return") {
                return Ok(value.clone());
            }
        }
    }
}
