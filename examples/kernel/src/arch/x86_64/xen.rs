//! Xen, as far as the kernel itself needs it: a PVH guest has no serial port, no timer of a PC and no ports to power it off.

use crate::platform::Machine;
use core::ptr::NonNull;
use core::time::Duration;
use paravirt_xen::{Early, EarlyConsole, Shutdown, TimeArea};
use spin::Once;

static XEN: Once<Option<Early<Machine>>> = Once::new();
static CONSOLE: Once<Option<Console>> = Once::new();
static TIME: TimeArea = TimeArea::new();
/// How long the host may take to read the last lines.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// The console, whose page is mapped one to one: below 4 GiB, where everything is.
struct Console(EarlyConsole);

fn xen() -> Option<&'static Early<Machine>> {
    XEN.call_once(|| Early::new(&Machine)).as_ref()
}

/// Looks for a console to write to, for a machine without a serial port.
pub fn find_console() {
    CONSOLE.call_once(|| {
        let address = xen()?.console_address().filter(|address| *address < 1 << 32)?;
        let page = NonNull::new(address as *mut u8)?;
        // SAFETY: everything below 4 GiB is mapped one to one, for good, and the page is the hypervisor's.
        unsafe { xen()?.console(page) }.map(Console)
    });
}

fn console() -> Option<(&'static Early<Machine>, &'static EarlyConsole)> {
    Some((xen()?, &CONSOLE.get()?.as_ref()?.0))
}

/// Whether lines are written to the console of the domain.
pub fn has_console() -> bool {
    console().is_some()
}

/// Whether the console takes a byte. If not, the domain that reads it runs for a moment.
pub fn has_room() -> bool {
    let Some((xen, console)) = console() else { return false };
    if !console.has_room() {
        xen.give_way();
    }
    console.has_room()
}

/// Writes a byte; the host is told of each line, and when there is no more room.
pub fn put(byte: u8) {
    if let Some((xen, console)) = console() {
        console.write(&[byte]);
        if byte == b'\n' || !console.has_room() {
            xen.notify(console);
        }
    }
}

/// Returns the rate of the cycle counter in Hz.
pub fn hz() -> Option<u64> {
    xen()?.hz(&TIME)
}

/// Powers the domain off, after the host has read the last lines. Returns if there is no Xen.
pub fn power_off() {
    if let Some((_, console)) = console() {
        crate::smp::wait_for(FLUSH_TIMEOUT, || console.is_flushed());
    }
    if let Some(xen) = xen() {
        let _ = xen.shutdown(Shutdown::PowerOff);
    }
}
