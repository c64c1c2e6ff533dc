//! Runs a guest under QEMU or another virtual machine monitor, and collects its output.

use crate::toolchains::Processor;
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// The outer virtual machine of a nested VM: it boots `kernel` and `initrd`, and has the folder `share`, with all files of the nested
/// VM, mounted at the same path as on the host.
pub struct Nest {
    pub kernel: PathBuf,
    pub initrd: PathBuf,
    pub share: PathBuf,
}

/// QEMU's programs.
const PC: &str = "qemu-system-x86_64";
const ARM: &str = "qemu-system-aarch64";
const RISCV: &str = "qemu-system-riscv64";

/// The virtual machine monitor.
pub enum Monitor {
    Qemu,
    /// QEMU, with a machine that boots from a disk.
    QemuDisk,
    /// `paravirt-monitor`: the program and its options, to which kernel and command line are appended.
    Ours(Vec<String>),
    /// Another one, started by this script, which exits with 0 if the guest powered off.
    Script(PathBuf),
}

/// The configuration of a machine.
pub struct Machine {
    /// QEMU's program.
    program: &'static str,
    pub kernel: PathBuf,
    pub nest: Option<Nest>,
    pub monitor: Monitor,
    /// Shell commands that the outer machine runs before it starts the nested VM.
    pub prepare: String,
    /// The socket of QEMU's machine protocol.
    pub qmp: Option<PathBuf>,
    /// Words before QEMU on the command line: `ip netns exec …`.
    pub prefix: Vec<String>,
    pub arguments: Vec<String>,
    pub command_line: String,
    pub timeout: Duration,
    /// Whether the monitor may end with a segmentation fault after the guest has ended, as QEMU 10.0 does with devices of Xen.
    pub may_crash_at_end: bool,
}

/// The output of a run and its exit codes.
#[derive(Debug)]
pub struct Transcript {
    pub lines: Vec<String>,
    /// The kernel's exit code; `None` if it did not print one, or the monitor's exit code contradicts it.
    pub exit: Option<u8>,
    /// The exit code of the monitor.
    pub ended: Option<i32>,
}

/// A running machine. It is killed when this is dropped.
pub struct Running {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
    deadline: Instant,
    is_nested: bool,
    /// Whether the monitor's exit code is 0 whatever the kernel's is.
    ends_with_0: bool,
    may_crash_at_end: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Machine {
    /// Creates a machine of QEMU type `machine`, with the kernel and no devices, under TCG.
    pub fn new(kernel: &Path, machine: &str, cpus: u16, memory: &str) -> Self {
        Self::with(kernel, machine, "tcg,thread=multi", cpus, memory)
    }

    /// As [`new`](Self::new), with the accelerator and its options.
    pub fn with(kernel: &Path, machine: &str, accelerator: &str, cpus: u16, memory: &str) -> Self {
        let words = format!(
            "-nodefaults -no-user-config -display none -no-reboot -M {machine} -accel {accelerator} -m {memory} \
             -smp {cpus} -serial stdio -device isa-debug-exit,iobase=0xf4,iosize=4"
        );
        Self::of(PC, kernel, &words)
    }

    /// Creates a machine of another processor, of QEMU's type `machine`, with the kernel and no devices, under TCG.
    pub fn of_processor(processor: Processor, kernel: &Path, machine: &str, cpus: u16, memory: &str) -> Self {
        let (program, model) = match processor {
            Processor::Aarch64 => (ARM, "-cpu cortex-a57"),
            Processor::Riscv64 => (RISCV, ""),
        };
        let words = format!(
            "-nodefaults -no-user-config -display none -no-reboot -M {machine} -accel tcg,thread=multi {model} \
             -m {memory} -smp {cpus} -serial stdio -global virtio-mmio.force-legacy=false"
        );
        Self::of(program, kernel, &words)
    }

    fn of(program: &'static str, kernel: &Path, words: &str) -> Self {
        Self {
            program,
            kernel: kernel.into(),
            nest: None,
            monitor: Monitor::Qemu,
            prepare: String::new(),
            qmp: None,
            prefix: vec![],
            arguments: words.split_whitespace().map(String::from).collect(),
            command_line: String::new(),
            timeout: Duration::from_secs(180),
            may_crash_at_end: false,
        }
    }

    /// Adds options to QEMU's command line.
    pub fn add(&mut self, words: &str) -> &mut Self {
        self.arguments.extend(words.split_whitespace().map(String::from));
        self
    }

    /// Adds a drive of the raw image at `path`, which may contain any character.
    pub fn drive(&mut self, id: &str, path: &Path, more: &str) -> &mut Self {
        let path = path.display().to_string().replace(',', ",,");
        // A full disk of the host is an error of the guest's write, instead of a machine that is paused without a word.
        let errors = if more.contains("readonly=on") { "" } else { ",werror=report" };
        self.arguments
            .extend(["-drive".into(), format!("file={path},if=none,id={id},format=raw{more}{errors}")]);
        self
    }

    /// Returns the command line that starts the machine itself.
    fn words(&self) -> Vec<String> {
        let kernel = self.kernel.display().to_string();
        match &self.monitor {
            Monitor::Qemu | Monitor::QemuDisk => {}
            Monitor::Ours(words) => return [words, &[kernel, self.command_line.clone()][..]].concat(),
            Monitor::Script(script) => return vec!["sh".into(), script.display().to_string()],
        }
        let mut words = vec![self.program.to_string()];
        words.extend(self.arguments.iter().cloned());
        if matches!(self.monitor, Monitor::Qemu) {
            words.extend(["-kernel".into(), kernel, "-append".into(), self.command_line.clone()]);
        }
        words
    }

    /// Returns the command to run: that of the machine, or that of the outer machine.
    fn command(&self) -> Result<Command> {
        let mut words = self.prefix.clone();
        match &self.nest {
            Some(nest) => words.extend(self.nested_words(nest)?),
            None => {
                words.extend(self.words());
                if let Some(socket) = &self.qmp {
                    words.extend(["-qmp".into(), format!("unix:{},server=on,wait=off", socket.display())]);
                }
            }
        }
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).env("NO_COLOR", "1");
        end_with_parent(&mut command);
        Ok(command)
    }

    /// Returns QEMU's command line for the outer machine, and writes the script with the command line of the nested VM. QMP is
    /// carried by the second serial port.
    fn nested_words(&self, nest: &Nest) -> Result<Vec<String>> {
        let mut inner = self.words();
        if self.qmp.is_some() {
            inner.extend(
                ["-chardev", "serial,id=qmp,path=/dev/ttyS1", "-mon", "chardev=qmp,mode=control"]
                    .map(String::from),
            );
        }
        let quoted: Vec<String> =
            inner.iter().map(|word| format!("'{}'", word.replace('\'', "'\\''"))).collect();
        // Shorter than the timeout outside, so that the outer machine can report it.
        let seconds = self.timeout.as_secs().saturating_sub(20).max(10);
        let script =
            format!("{}\nexec timeout -s KILL {seconds} {} </dev/null\n", self.prepare, quoted.join(" "));
        std::fs::write(nest.share.join("run.sh"), script)?;
        let share = nest.share.display();
        let append = format!(
            "console=ttyS0 quiet mitigations=off nokaslr tsc=reliable no_timer_check panic=-1 random.trust_cpu=on lab.share={share}"
        );
        let words = "qemu-system-x86_64 -nodefaults -no-user-config -display none -no-reboot -M q35 \
             -accel tcg,thread=multi,tb-size=1024 -cpu EPYC -smp 1 -m 2G -serial stdio";
        let mut words: Vec<String> = words.split_whitespace().map(String::from).collect();
        if let Some(socket) = &self.qmp {
            words.extend(["-serial".into(), format!("unix:{},server=on,wait=off", socket.display())]);
        }
        let files = [("-kernel", &nest.kernel), ("-initrd", &nest.initrd)];
        for (option, file) in files {
            words.extend([option.into(), file.display().to_string()]);
        }
        let shared = format!("local,path={share},mount_tag=share,security_model=none,multidevs=remap");
        words.extend(["-append".into(), append, "-virtfs".into(), shared]);
        Ok(words)
    }

    /// Starts the machine.
    pub fn start(&self) -> Result<Running> {
        let mut command = self.command()?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", self.program))?;
        let (sender, lines) = channel();
        let (out, err) =
            (child.stdout.take().context("no output")?, child.stderr.take().context("no output")?);
        let errors = sender.clone();
        // QEMU prints this warning for emulated processors.
        let is_noise = |line: &str| line.contains("doesn't support requested feature");
        std::thread::spawn(move || pump(out, |line| is_noise(&line) || sender.send(line).is_ok()));
        std::thread::spawn(move || {
            pump(err, |line| is_noise(&line) || errors.send(format!("qemu: {line}")).is_ok())
        });
        Ok(Running {
            child,
            lines,
            seen: vec![],
            deadline: Instant::now() + self.timeout,
            is_nested: self.nest.is_some(),
            ends_with_0: matches!(self.monitor, Monitor::Script(_)) || self.program != PC,
            may_crash_at_end: self.may_crash_at_end,
        })
    }

    /// Runs the machine until it ends; `each` is called for every line of output.
    ///
    /// A nested VM hangs about once in a hundred runs. Then it is started again, once; a run that ended by itself is not repeated.
    pub fn run(&self, mut each: impl FnMut(&str)) -> Result<Transcript> {
        let mut once = || {
            let mut running = self.start()?;
            while let Some(line) = running.line()? {
                each(&line);
            }
            running.finish()
        };
        let first = once();
        let is_hung = match &first {
            Ok(transcript) => has_hung(transcript.ended),
            Err(_) => true,
        };
        if self.nest.is_some() && is_hung {
            println!("lab: the outer virtual machine hung, starting it again");
            return once();
        }
        first
    }
}

/// Has the command killed when the thread that starts it ends, and with it this program, by whatever signal. That thread waits for it.
pub fn end_with_parent(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    // SAFETY: between fork and exec, the closure makes one system call, which is async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
}

/// Returns whether the exit code means that the machine was stopped by a timeout.
pub fn has_hung(ended: Option<i32>) -> bool {
    ended.is_none_or(|code| code == 124 || code == 137)
}

/// Calls `each` for every line until it returns false.
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
    /// Returns the next line of output; `None` at the end. An error after the machine's timeout.
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

    /// Reads lines until one contains `text`.
    pub fn wait_for(&mut self, text: &str) -> Result<String> {
        while let Some(line) = self.line()? {
            if line.contains(text) {
                return Ok(line);
            }
        }
        bail!("the guest ended without `{text}`; its output:\n{}", self.seen.join("\n"))
    }

    /// Reads the remaining lines and waits for the monitor to exit.
    pub fn finish(mut self) -> Result<Transcript> {
        while self.line()?.is_some() {}
        let status = self.child.wait()?;
        let lines = std::mem::take(&mut self.seen);
        let printed = exit_code(&lines);
        let ended = match self.is_nested {
            true => lines.iter().rev().find_map(|line| line.strip_prefix("lab: ended with ")?.parse().ok()),
            false => status.code(),
        };
        // With isa-debug-exit, QEMU exits with 2 * code + 1.
        let expected = |code: u8| if self.ends_with_0 { 0 } else { (i32::from(code) << 1 | 1) & 0xff };
        // As a shell tells it.
        let has_crashed = self.may_crash_at_end && ended == Some(128 + libc::SIGSEGV);
        let exit = printed.filter(|code| has_crashed || ended == Some(expected(*code)));
        Ok(Transcript { lines, exit, ended })
    }
}

impl Transcript {
    /// Returns the lines that begin with `same `, in order.
    pub fn same(&self) -> Vec<&str> {
        self.lines.iter().map(String::as_str).filter(|line| line.starts_with("same ")).collect()
    }

    /// Returns the value of `key` in the first line that contains `line`.
    pub fn value(&self, line: &str, key: &str) -> Option<&str> {
        let line = self.lines.iter().find(|l| l.contains(line))?;
        line.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    }

    pub fn text(&self) -> String {
        self.lines.join("\n")
    }

    /// What a guest inside the machine has printed, whose lines are behind its name.
    pub fn of_guest(&self, name: &str) -> Self {
        let own = |line: &String| line.strip_prefix(name)?.strip_prefix(": ").map(String::from);
        let lines: Vec<String> = self.lines.iter().filter_map(own).collect();
        let exit = exit_code(&lines);
        Self { lines, exit, ended: self.ended }
    }
}

fn exit_code(lines: &[String]) -> Option<u8> {
    lines.iter().find_map(|line| line.strip_prefix("exit=")?.parse().ok())
}
