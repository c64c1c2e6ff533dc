//! A small machine monitor on `/dev/kvm` whose guest sees Hyper-V: KVM's own emulation of the hypervisor, and on it VMBus with
//! disks (StorVSP), a network card (NetVSP) and integration services, the models of `paravirt-testhost`.

/// Says something on standard error: a line in one piece, beside what the guest writes.
macro_rules! tell {
    ($($words:tt)*) => {{
        use std::io::Write;
        let line = format!("monitor: {}\n", format_args!($($words)*));
        // There is nobody else to tell.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }};
}

mod acpi;
mod boot;
mod host;
mod machine;
mod options;
mod peer;
mod ports;
mod processor;
mod services;
mod synic;
mod typist;

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
            tell!("{error:#}");
            ExitCode::from(FAILED)
        }
    }
}

/// What the monitor ends with when it cannot go on: no value that a guest writes makes it.
const FAILED: u8 = 2;

/// Interrupts a processor's run; there is nothing else to do.
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
        typist: options.input()?,
    };
    let board = Arc::new(Board {
        host: Host::new(vm, Memory::new(memory), options.cpus, devices)?,
        ports: Mutex::new(Ports::new(line, Console::new(options.watches()))),
        stop: AtomicBool::new(false),
    });

    register_signal_handler(SIGRTMIN(), interrupt)?;
    let (sender, ends) = channel();
    let mut threads = vec![];
    for (vp, processor) in processors.into_iter().enumerate() {
        let (board, sender) = (board.clone(), sender.clone());
        threads.push(std::thread::spawn(move || {
            // A closed receiver has been told of another end.
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
                // One that has ended has said so, unless it failed.
                let failed = || End::Fault("a thread of the monitor has failed".into());
                break ends.try_recv().unwrap_or_else(|_| failed());
            }
            Err(_) => {}
        }
    };
    board.stop.store(true, Ordering::Release);
    for thread in &threads {
        // The signal may come ahead of the run that it is to interrupt.
        while !thread.is_finished() {
            let _ = thread.kill(SIGRTMIN());
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    // Where it failed, that is the end which is reported.
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
            tell!("the guest has switched off");
            ExitCode::SUCCESS
        }
        End::Reset => {
            tell!("the guest has asked for a reset");
            ExitCode::SUCCESS
        }
        End::Fault(text) => {
            tell!("the machine cannot go on: {text}");
            ExitCode::from(FAILED)
        }
    })
}
