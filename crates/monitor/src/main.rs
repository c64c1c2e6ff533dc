//! A small virtual machine monitor on `/dev/kvm` whose guest sees Hyper-V: KVM emulates the hypervisor; the models of
//! `paravirt-testhost` are VMBus with disks (StorVSP), a network card (NetVSP) and integration services.

/// Prints a line to standard error with one write, so that it is not mixed with output of other threads.
macro_rules! log_line {
    ($($arguments:tt)*) => {{
        use std::io::Write;
        let line = format!("monitor: {}\n", format_args!($($arguments)*));
        // An error cannot be reported anywhere else.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }};
}

mod acpi;
mod boot;
mod host;
mod input_script;
mod machine;
mod options;
mod peer;
mod ports;
mod processor;
mod services;
mod synic;

use anyhow::{Context, Result};
use clap::Parser;
use host::{Devices, Host};
use machine::Machine;
use options::Options;
use paravirt_testhost::Memory;
use ports::{Console, End, Ports, SERIAL_GSI};
use processor::Board;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EventFd};
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(code) => code,
        Err(error) => {
            log_line!("{error:#}");
            ExitCode::from(FAILED)
        }
    }
}

/// The exit code for a fault of the monitor or the machine. A guest cannot cause it: the codes of isa-debug-exit are odd.
const FAILED: u8 = 2;

/// Handles the signal that interrupts `KVM_RUN`.
extern "C" fn interrupt(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

fn run(options: &Options) -> Result<ExitCode> {
    let Machine { vm, memory, processors } = Machine::new(options.cpus, options.memory << 20)?;
    let command_line = options.append.join(" ");
    let guest = boot::Guest {
        kernel: &options.kernel,
        initrd: options.initrd.as_deref(),
        command_line: &command_line,
        processors: options.cpus,
    };
    boot::boot(&memory, &processors[0], &guest)?;
    let line = EventFd::new(EFD_CLOEXEC)?;
    vm.register_irqfd(&line, SERIAL_GSI)?;
    let devices = Devices {
        newest: options.vmbus(),
        disks: options.disks()?,
        card: options.card()?,
        input_script: options.input()?,
    };
    let board = Arc::new(Board {
        host: Host::new(vm, Memory::new(memory), options.cpus, devices)?,
        ports: Mutex::new(Ports::new(line, Console::new(options.triggers()))),
        stop: AtomicBool::new(false),
    });

    register_signal_handler(SIGRTMIN(), interrupt)?;
    let (sender, ends) = channel();
    let mut threads = vec![];
    for (vp, processor) in processors.into_iter().enumerate() {
        let (board, sender) = (board.clone(), sender.clone());
        threads.push(std::thread::spawn(move || {
            // The receiver is closed if another thread has ended the machine.
            processor::run(&board, vp as u32, processor).into_iter().for_each(|end| drop(sender.send(end)));
        }));
    }
    let serving = {
        let board = board.clone();
        std::thread::spawn(move || {
            let result = board.host.serve(&board.stop);
            result.err().into_iter().for_each(|error| drop(sender.send(End::Fault(format!("{error:#}")))));
        })
    };
    let end = loop {
        match ends.recv_timeout(Duration::from_millis(100)) {
            Ok(end) => break end,
            Err(_) if serving.is_finished() || threads.iter().any(|thread| thread.is_finished()) => {
                // A thread that ended without a message has panicked.
                let failed = || End::Fault("a thread of the monitor panicked".into());
                break ends.try_recv().unwrap_or_else(|_| failed());
            }
            Err(_) => {}
        }
    };
    board.stop.store(true, Ordering::Release);
    for thread in &threads {
        // The signal may arrive before the run that it has to interrupt, so it is repeated.
        while !thread.is_finished() {
            let _ = thread.kill(SIGRTMIN());
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    // An error of this thread has been sent to `ends`.
    let _ = serving.join();
    board
        .ports
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .finish()
        .context("cannot write to standard output")?;
    board.host.report();
    Ok(match end {
        End::Debug(value) => ExitCode::from(value << 1 | 1),
        End::Off => {
            log_line!("the guest powered off");
            ExitCode::SUCCESS
        }
        End::Reset => {
            log_line!("the guest requested a reset");
            ExitCode::SUCCESS
        }
        End::Fault(text) => {
            log_line!("the machine stopped: {text}");
            ExitCode::from(FAILED)
        }
    })
}
