//! The smaller devices on VMBus: keyboard, mouse, integration services, sockets, dynamic memory.

use super::vmbus::{Changes, connect, step};
use super::{PageFrames, Steps, in_guest};
use hyperv_bindings::{dynmem::DmVersion, ic::IcVersion, vmbus as class};
use paravirt_device::{Agent, Balloon, Fact, Input, Leds, Notify, PowerRequest, Sockets, ValuePool};
use paravirt_hv_balloon::HvBalloon;
use paravirt_hv_ic::Connection;
use paravirt_hv_input::HvInput;
use paravirt_hv_socket::HvSockets;
use paravirt_testhost::{
    BalloonHost, Guest, HvHost, HvOffer, IcHost, InputHost, OfferSettings, SocketEnd, VmbusDevice,
};
use paravirt_vmbus::{ChannelOptions, Guid, Offer, Vmbus};
use std::fmt;

/// Messages or pieces of one, as a model sends them.
fn message(steps: &mut Steps<'_>) -> Vec<u8> {
    let len = usize::from(steps.byte() & 127);
    steps.take(len)
}

/// Opens a device on a host that offers it with `open`, and alternates steps of the bus, of the device and of the kernel.
fn drive<D>(
    guest: &Guest,
    steps: &mut Steps<'_>,
    (interface, is_pipe): (Guid, bool),
    device: impl VmbusDevice + 'static,
    open: impl FnOnce(&Vmbus<Guest>, &Offer) -> Option<D>,
    mut call: impl FnMut(&mut D, &mut Steps<'_>),
) {
    let changes = Changes::default();
    let host = HvHost::new(guest, HvOffer::least());
    let settings = OfferSettings { interface, is_pipe, ..OfferSettings::default() };
    let channel = host.add(guest, settings, device);
    let Some((vmbus, hypervisor)) = connect(guest, &host, &changes) else { return };
    if let Some(offer) = vmbus.find(&Guid::default(), 0)
        && let Some(mut driver) = open(&vmbus, &offer)
    {
        while !steps.0.is_empty() {
            match steps.byte() % 4 {
                0 => step(guest, &host, channel, &changes, steps),
                _ => call(&mut driver, steps),
            }
        }
    }
    drop((vmbus, hypervisor));
}

/// A keyboard or a mouse.
pub fn hv_input_driver(data: &[u8]) {
    in_guest(|guest| {
        let mut steps = Steps(data);
        let is_mouse = steps.byte() & 1 != 0;
        let (device, offered) = match is_mouse {
            true => (InputHost::mouse(), (class::MOUSE, true)),
            false => (InputHost::keyboard(), (class::KEYBOARD, false)),
        };
        let open = |vmbus: &Vmbus<Guest>, offer: &Offer| {
            HvInput::open(guest, vmbus, offer, &ChannelOptions::default()).ok()
        };
        let host = device.clone();
        drive(guest, &mut steps, offered, device, open, |input: &mut HvInput<Guest>, steps| {
            match steps.byte() % 6 {
                0 => host.send(&message(steps)),
                1 => host.keystroke(steps.word(), steps.byte().into()),
                2 => host.report(steps.byte(), steps.word(), steps.word(), steps.word() as i16),
                3 => drop(input.poll()),
                4 => drop(input.set_leds(Leds::default())),
                _ => drop(input.arm()),
            }
        });
    });
}

/// A kernel that agrees to everything, and whose values are as long as the host asks for.
struct Kernel(u8);

impl Agent for Kernel {
    fn power(&mut self, _request: PowerRequest, _is_forced: bool) -> bool {
        self.0 & 1 != 0
    }
    fn fact(&mut self, _fact: Fact, out: &mut dyn fmt::Write) -> fmt::Result {
        (0..self.0).try_for_each(|_| out.write_str("abc \u{1f600}"))
    }
    fn set_value(&mut self, _pool: ValuePool, key: &str, value: Option<&str>) -> bool {
        key.chars().count() + value.unwrap_or_default().chars().count() > 3
    }
    fn value(&mut self, _pool: ValuePool, key: &str, out: &mut dyn fmt::Write) -> fmt::Result {
        (0..self.0).try_for_each(|_| out.write_str(key))
    }
    fn key(&mut self, _pool: ValuePool, index: u32, out: &mut dyn fmt::Write) -> fmt::Result {
        if index > u32::from(self.0) { Err(fmt::Error) } else { out.write_str("key") }
    }
}

/// An integration service.
pub fn hv_ic_driver(data: &[u8]) {
    in_guest(|guest| {
        let mut steps = Steps(data);
        let services =
            [class::SHUTDOWN, class::HEARTBEAT, class::TIME_SYNC, class::KVP, class::VSS, class::FILE_COPY];
        let choice = steps.byte();
        let interface = services[usize::from(choice) % services.len()];
        let device = IcHost::default();
        if choice & 64 == 0 {
            device.greet(IcVersion { major: u16::from(choice >> 4 & 3) + 2, minor: 0 });
        }
        let open = |vmbus: &Vmbus<Guest>, offer: &Offer| {
            Connection::open(guest, vmbus, offer, paravirt_hv_ic::service(&interface)?).ok()
        };
        let host = device.clone();
        let mut kernel = Kernel(choice);
        drive(guest, &mut steps, (interface, true), device, open, |service, steps| match steps.byte() % 6 {
            0 => host.send(&message(steps)),
            1 => {
                let version = IcVersion { major: u16::from(steps.byte() % 8), minor: 0 };
                let kind = hyperv_bindings::ic::IcMessageType(u16::from(steps.byte() % 10));
                host.ask(kind, version, &message(steps));
            }
            2 | 3 => drop(service.serve(Some(steps.word().into()), &mut kernel)),
            4 => drop(service.is_flushed()),
            _ => drop(service.arm()),
        });
    });
}

/// Sockets, which the host and the guest connect and close.
pub fn hv_socket_driver(data: &[u8]) {
    in_guest(|guest| {
        let mut steps = Steps(data);
        let changes = Changes::default();
        let host = HvHost::new(guest, HvOffer::least());
        let Some((vmbus, hypervisor)) = connect(guest, &host, &changes) else { return };
        if let Ok(Some(mut sockets)) = HvSockets::new(guest, &vmbus) {
            let (mut known, mut ends, mut channel) = (vec![], vec![], 1);
            while !steps.0.is_empty() {
                let choice = steps.byte() % 16;
                let which = usize::from(steps.byte());
                let socket = known.get(which.checked_rem(known.len()).unwrap_or(0)).copied();
                let end: Option<&SocketEnd> = ends.get(which.checked_rem(ends.len()).unwrap_or(0));
                match (choice, socket, end) {
                    (0, ..) => step(guest, &host, channel, &changes, &mut steps),
                    (1 | 2, ..) => host.work_on_all(guest),
                    (3, ..) if ends.len() < 24 => {
                        let end = if which & 1 == 0 { SocketEnd::echo() } else { SocketEnd::default() };
                        host.listen(guest, 9000, &end);
                        ends.push(end);
                        known.extend(sockets.connect(9000 + u32::from(which > 200)));
                    }
                    (4, ..) if ends.len() < 24 => {
                        let end = SocketEnd::default();
                        let _ = sockets.listen(7);
                        channel = host.connect(guest, 7, &end);
                        ends.push(end);
                    }
                    (5, ..) => known.extend(sockets.accept(7)),
                    (6, _, Some(end)) => end.send(&message(&mut steps)),
                    (7, _, Some(end)) => end.send_packet(&message(&mut steps)),
                    (8, _, Some(end)) => end.finish(),
                    (9, Some(socket), _) => drop(sockets.send(socket, &message(&mut steps))),
                    (10, Some(socket), _) => drop(sockets.receive(socket, &mut [0; 80])),
                    (11, Some(socket), _) => drop(sockets.finish(socket)),
                    (12, Some(socket), _) => sockets.close(socket),
                    (13, ..) => drop((sockets.arm(), sockets.is_flushed())),
                    _ => drop(sockets.poll()),
                }
                known.truncate(32);
            }
        }
        drop((vmbus, hypervisor));
    });
}

/// Dynamic memory: no page is released that was not taken.
pub fn hv_balloon_driver(data: &[u8]) {
    in_guest(|guest| {
        let mut steps = Steps(data);
        let device = BalloonHost::new(DmVersion::WIN10);
        let open = |vmbus: &Vmbus<Guest>, offer: &Offer| {
            HvBalloon::open(guest, vmbus, offer, &ChannelOptions::default()).ok()
        };
        let host = device.clone();
        let mut frames = PageFrames::default();
        let offered = (class::DYNAMIC_MEMORY, false);
        drive(guest, &mut steps, offered, device, open, |balloon, steps| match steps.byte() % 8 {
            0 => host.send(&message(steps)),
            1 => host.inflate(steps.byte().into(), steps.byte().into()),
            2 => {
                let first = (1 << 24) + u64::from(steps.byte());
                let ranges = [(first, u64::from(steps.byte() & 7)), (first + 8, 4)];
                host.deflate(steps.byte().into(), &ranges, steps.byte() & 3 == 0);
            }
            3 => host.hot_add(steps.byte().into(), u64::from(steps.word()) << 15, 1 << 15),
            4..=6 => drop(balloon.poll(&mut frames)),
            _ => drop((balloon.arm(), balloon.expire(paravirt_platform::Platform::now(guest)))),
        });
    });
}
