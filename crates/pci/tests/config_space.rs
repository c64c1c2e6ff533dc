//! The walk over a model of configuration space behind the ports 0xCF8 and 0xCFC, as strict as the strictest monitors.

use paravirt_pci::{Address, Bar, Command, ConfigAccess, PciFunction, Window, Windows, enumerate};
use paravirt_platform::{AllocError, Instant, Platform, PortIo, RawDma};
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};

const COMMAND: usize = 0x04;
const BAR0: usize = 0x10;

/// A function: its registers, and the sizes of its BARs, 0 for the upper half of the one before.
#[derive(Clone)]
struct Function {
    registers: [u8; 256],
    bars: Vec<u64>,
    /// Whenever the function answered to its BARs: what the first of them held.
    decoded: Vec<u64>,
}

impl Function {
    fn new(class: u8, bars: &[(u64, bool)]) -> Self {
        let mut registers = [0; 256];
        registers[..4].copy_from_slice(&[0xf4, 0x1a, 0x42, 0x10]);
        registers[0xb] = class;
        let mut sizes = vec![];
        for (size, is_wide) in bars {
            registers[BAR0 + 4 * sizes.len()] = if *is_wide { 4 } else { 0 };
            sizes.push(*size);
            sizes.extend(is_wide.then_some(0));
        }
        Self { registers, bars: sizes, decoded: vec![] }
    }

    fn word(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.registers[at..at + 4].try_into().expect("4 bytes"))
    }

    fn address(&self, bar: usize) -> u64 {
        let is_wide = self.word(BAR0 + 4 * bar) & 4 != 0;
        let high = if is_wide { self.word(BAR0 + 4 * bar + 4) } else { 0 };
        u64::from(self.word(BAR0 + 4 * bar) & !0xf) | u64::from(high) << 32
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        let bar = at.checked_sub(BAR0).map(|at| at / 4).filter(|bar| *bar < 6);
        if let (Some(index), [_, _, _, _]) = (bar, bytes) {
            if index >= self.bars.len() {
                return;
            }
            let value = u32::from_le_bytes(bytes.try_into().expect("4 bytes"));
            let old = self.word(at);
            let kept = match self.bars[index] {
                0 => value & ((self.bars[index - 1].wrapping_neg() >> 32) as u32),
                size => value & (size.wrapping_neg() as u32) | old & 0xf,
            };
            self.registers[at..at + 4].copy_from_slice(&kept.to_le_bytes());
        } else if at == COMMAND && bytes.len() == 2 {
            // Its own width is the only one in which some monitors take it.
            self.registers[at..at + 2].copy_from_slice(bytes);
        } else if at != COMMAND {
            self.registers[at..at + bytes.len()].copy_from_slice(bytes);
        }
        if self.registers[COMMAND] & 2 != 0 {
            let address = self.address(0);
            self.decoded.push(address);
        }
    }
}

#[derive(Default)]
struct State {
    latch: u32,
    reads: usize,
    functions: BTreeMap<Address, Function>,
}

#[derive(Clone, Default)]
struct Machine(Arc<Mutex<State>>);

impl Machine {
    fn with(functions: &[(u8, u8, Function)]) -> Self {
        let at = |device, function| Address { device, function, ..Address::default() };
        let functions = functions.iter().map(|(d, f, function)| (at(*d, *f), function.clone())).collect();
        Self(Arc::new(Mutex::new(State { functions, ..State::default() })))
    }

    /// Walks with `windows`; the BARs of each function.
    fn walk(&self, mut windows: Windows) -> Vec<(Address, Vec<Bar>)> {
        let mut found = vec![];
        // SAFETY: the ports are the model's, and nobody else uses it.
        unsafe {
            let access = ConfigAccess::ports(self);
            enumerate(
                &access,
                0,
                &mut windows,
                |_| true,
                |slot| {
                    found.push((slot.address(), slot.bars().iter().map(|(_, bar)| bar).collect()));
                },
            );
        }
        found
    }
}

fn target(state: &State) -> (Address, usize) {
    let [offset, function, bus, _] = state.latch.to_le_bytes();
    (Address { segment: 0, bus, device: function >> 3, function: function & 7 }, usize::from(offset))
}

// SAFETY: the model has registers of its own and accesses no memory.
unsafe impl PortIo for Machine {
    unsafe fn in32(&self, port: u16) -> u32 {
        let state = &mut *self.0.lock().expect("the model");
        assert_eq!(port, 0xcfc);
        state.reads += 1;
        let (address, at) = target(state);
        state.functions.get(&address).map_or(u32::MAX, |function| function.word(at))
    }
    unsafe fn out32(&self, port: u16, value: u32) {
        let state = &mut *self.0.lock().expect("the model");
        if port == 0xcf8 {
            state.latch = value;
            return;
        }
        let (address, at) = target(state);
        if let Some(function) = state.functions.get_mut(&address) {
            function.write(at, &value.to_le_bytes());
        }
    }
    unsafe fn out16(&self, port: u16, value: u16) {
        let state = &mut *self.0.lock().expect("the model");
        let (address, at) = target(state);
        if let Some(function) = state.functions.get_mut(&address) {
            function.write(at + usize::from(port - 0xcfc), &value.to_le_bytes());
        }
    }
}

// SAFETY: it gives no memory.
unsafe impl Platform for Machine {
    fn dma_alloc(&self, _pages: NonZeroUsize) -> Result<RawDma, AllocError> {
        Err(AllocError)
    }
    unsafe fn dma_free(&self, _region: RawDma) {}
    fn now(&self) -> Instant {
        Instant::from_nanos(0)
    }
    fn port_io(&self) -> &dyn PortIo {
        self
    }
}

fn windows(ranges: &[(u64, u64)]) -> Windows {
    let mut windows = Windows::new();
    ranges.iter().for_each(|(start, end)| assert!(windows.add(Window { start: *start, end: *end })));
    windows
}

/// crosvm and Alioth ignore a command register that is written together with the status register.
#[test]
fn the_command_register_is_written_in_its_own_width() {
    let machine = Machine::with(&[(3, 0, Function::new(2, &[]))]);
    // SAFETY: the ports are the model's, and nobody else uses it.
    let access = unsafe { ConfigAccess::ports(&machine) };
    let function = PciFunction::new(&access, Address { device: 3, ..Address::default() });
    // SAFETY: the model accesses no memory.
    unsafe { function.set_command(Command::MEMORY_SPACE | Command::BUS_MASTER) };
    assert_eq!(function.command(), Command::MEMORY_SPACE | Command::BUS_MASTER);
}

/// Cloud Hypervisor moves a device to wherever a BAR points while it answers to its BARs.
#[test]
fn a_function_never_answers_to_an_address_that_is_not_its_own() {
    let mut function = Function::new(2, &[(0x4000, true)]);
    function.registers[BAR0 + 1] = 0x40;
    function.registers[BAR0 + 4] = 0x0f;
    function.registers[COMMAND] = 2;
    let machine = Machine::with(&[(1, 0, function)]);
    machine.walk(Windows::new());
    let state = machine.0.lock().expect("the model");
    let function = state.functions.values().next().expect("the function");
    assert_eq!(function.address(0), 0xf_0000_4000);
    assert!(function.decoded.iter().all(|at| *at == 0xf_0000_4000), "{:x?}", function.decoded);
    assert_eq!(function.registers[COMMAND], 2);
}

#[test]
fn an_empty_bus_is_read_once_a_device() {
    let machine = Machine::default();
    assert!(machine.walk(Windows::new()).is_empty());
    assert_eq!(machine.0.lock().expect("the model").reads, 32);
}

/// A device with one function answers for all eight on some machines.
#[test]
fn only_a_device_with_several_functions_is_asked_for_them() {
    let one = Function::new(2, &[]);
    let mut several = Function::new(2, &[]);
    several.registers[0xe] = 0x80;
    let machine = Machine::with(&[(1, 0, one.clone()), (1, 3, one.clone()), (2, 0, several), (2, 3, one)]);
    let found: Vec<_> = machine.walk(Windows::new()).iter().map(|(at, _)| (at.device, at.function)).collect();
    assert_eq!(found, [(1, 0), (2, 0), (2, 3)]);
}

/// A large 64-bit BAR ahead of the others does not use up the only addresses that the 32-bit ones can have.
#[test]
fn large_wide_bars_go_above_4_gib_and_every_bar_gets_an_address() {
    let machine = Machine::with(&[
        (1, 0, Function::new(3, &[(256 << 20, true)])),
        (2, 0, Function::new(2, &[(0x1000, false), (0x4000, true)])),
        (3, 0, Function::new(1, &[(0x1000, false), (1 << 20, false)])),
    ]);
    let found = machine.walk(windows(&[(0xe000_0000, 0xf000_0000), (0x80_0000_0000, 0x81_0000_0000)]));
    let memory: Vec<(u64, u64)> = found
        .iter()
        .flat_map(|(_, bars)| bars)
        .map(|bar| match bar {
            Bar::Memory { address, size, .. } => (*address, *size),
            Bar::Io { .. } => panic!("no I/O BAR was made"),
        })
        .collect();
    assert_eq!(memory.len(), 5);
    assert!(memory.iter().all(|(address, size)| *address != 0 && address % size == 0), "{memory:x?}");
    assert!(memory[0].0 >= 0x80_0000_0000, "{memory:x?}");
    let mut sorted = memory.clone();
    sorted.sort_unstable();
    assert!(sorted.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0), "{memory:x?}");
}

/// Without addresses above 4 GiB the largest is placed first, so that none of the window is lost to alignment.
#[test]
fn bars_are_placed_by_size_so_that_they_fit() {
    let machine = Machine::with(&[
        (1, 0, Function::new(2, &[(0x1000, false)])),
        (2, 0, Function::new(2, &[(8 << 20, false)])),
        (3, 0, Function::new(2, &[(4 << 20, false)])),
    ]);
    let found = machine.walk(windows(&[(0xe000_0000, 0xe000_0000 + (12 << 20) + 0x1000)]));
    for (address, bars) in found {
        assert!(matches!(bars[..], [Bar::Memory { address, .. }] if address != 0), "{address}: {bars:x?}");
    }
}
