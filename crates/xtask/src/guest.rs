//! One run of the kernel under QEMU.

use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// A machine that is to run.
pub struct Machine {
    pub kernel: PathBuf,
    /// Ahead of QEMU: `ip netns exec …`.
    pub prefix: Vec<String>,
    pub arguments: Vec<String>,
    pub command_line: String,
    pub timeout: Duration,
}

/// What a run printed, and how it ended.
#[derive(Debug)]
pub struct Transcript {
    pub lines: Vec<String>,
    /// The kernel's verdict; `None` where it did not get to it.
    pub exit: Option<u8>,
}

/// A machine that runs.
pub struct Running {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
    deadline: Instant,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Machine {
    /// A machine of the type given, with the kernel and nothing else.
    pub fn new(kernel: &Path, machine: &str, cpus: u16, memory: &str) -> Self {
        let words = format!(
            "-nodefaults -no-user-config -display none -no-reboot -M {machine} -accel tcg,thread=multi -m {memory} \
             -smp {cpus} -serial stdio -device isa-debug-exit,iobase=0xf4,iosize=4"
        );
        Self {
            kernel: kernel.into(),
            prefix: vec![],
            arguments: words.split_whitespace().map(String::from).collect(),
            command_line: String::new(),
            timeout: Duration::from_secs(180),
        }
    }

    /// Adds words to QEMU's command line.
    pub fn add(&mut self, words: &str) -> &mut Self {
        self.arguments.extend(words.split_whitespace().map(String::from));
        self
    }

    /// Starts it.
    pub fn start(&self) -> Result<Running> {
        let mut words = self.prefix.clone();
        words.push("qemu-system-x86_64".into());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(&self.arguments);
        command.arg("-kernel").arg(&self.kernel).args(["-append", &self.command_line]);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start qemu-system-x86_64")?;
        let (sender, lines) = channel();
        let (out, err) =
            (child.stdout.take().context("no output")?, child.stderr.take().context("no output")?);
        let errors = sender.clone();
        std::thread::spawn(move || pump(out, |line| sender.send(line).is_ok()));
        std::thread::spawn(move || pump(err, |line| errors.send(format!("qemu: {line}")).is_ok()));
        Ok(Running { child, lines, seen: vec![], deadline: Instant::now() + self.timeout })
    }

    /// Runs it to its end; `each` sees every line as it comes.
    pub fn run(&self, mut each: impl FnMut(&str)) -> Result<Transcript> {
        let mut running = self.start()?;
        while let Some(line) = running.line()? {
            each(&line);
        }
        running.finish()
    }
}

fn pump(from: impl std::io::Read, mut each: impl FnMut(String) -> bool) {
    let mut reader = BufReader::new(from);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
        if !each(String::from_utf8_lossy(&line).trim_end().to_string()) {
            return;
        }
        line.clear();
    }
}

impl Running {
    /// The next line of output; `None` at its end.
    pub fn line(&mut self) -> Result<Option<String>> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        match self.lines.recv_timeout(left) {
            Ok(line) => {
                self.seen.push(line.clone());
                Ok(Some(line))
            }
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => {
                bail!("the guest did not finish in time; its output so far:\n{}", self.seen.join("\n"))
            }
        }
    }

    /// Reads on until a line contains `text`.
    pub fn wait_for(&mut self, text: &str) -> Result<String> {
        while let Some(line) = self.line()? {
            if line.contains(text) {
                return Ok(line);
            }
        }
        bail!("the guest ended without `{text}`; its output:\n{}", self.seen.join("\n"))
    }

    /// Reads the rest.
    pub fn finish(mut self) -> Result<Transcript> {
        while self.line()?.is_some() {}
        let status = self.child.wait()?;
        let lines = std::mem::take(&mut self.seen);
        let said = lines.iter().find_map(|line| line.strip_prefix("exit=")?.parse::<u8>().ok());
        // isa-debug-exit ends QEMU with twice the code and one.
        let exit = said.filter(|code| status.code() == Some((i32::from(*code) << 1 | 1) & 0xff));
        Ok(Transcript { lines, exit })
    }
}

impl Transcript {
    /// The `same` lines without those of files sorted in, in their order.
    pub fn same(&self) -> Vec<&str> {
        self.lines.iter().map(String::as_str).filter(|line| line.starts_with("same ")).collect()
    }

    /// The value of `key` in the first line that contains `line`.
    pub fn value(&self, line: &str, key: &str) -> Option<&str> {
        let line = self.lines.iter().find(|l| l.contains(line))?;
        line.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    }

    pub fn text(&self) -> String {
        self.lines.join("\n")
    }
}
