//! What a frame of 60 bytes costs in the network drivers: run under callgrind by `cargo xtask bench`.
//!
//! `net-bench PART BATCH ROUNDS`, where PART is `virtio-net-tx`, `virtio-net-rx`, `netvsc-tx`, `netvsc-rx`, `vmxnet3-tx`,
//! `vmxnet3-rx`, `netfront-tx` or `netfront-rx`. What stands in functions named `driver_side` is the driver's, except for what stands in `host_side`. Prints kicks for a batch and
//! allocations for a frame.

use paravirt_device::{NetDevice, NetQueue, NetRx, NetTx, TxMeta};
use paravirt_hyperv::Hypervisor;
use paravirt_netfront::{NetFront, NetFrontOptions};
use paravirt_netvsc::{INTERFACE, NetOptions, NetVsc};
use paravirt_platform::DmaSlice;
use paravirt_testhost::count::{self, Counting, counted};
use paravirt_testhost::{Guest, HvHost, NetHost, NetVspHost, Ring, Vmxnet3Host, XenHost, XenReceived};
use paravirt_virtio::OpenOptions;
use paravirt_virtio::net::VirtioNet;
use paravirt_virtio::net::config::NetFeatures;
use paravirt_vmbus::{Guid, Version, Vmbus};
use paravirt_vmxnet3::{Vmxnet3, Vmxnet3Options};
use paravirt_xen::Store;
use paravirt_xen::bus::{Address, Class};
use std::hint::black_box;

#[global_allocator]
static COUNTING: Counting = Counting;

const LEN: usize = 60;

#[inline(never)]
fn driver_side_send<Q: NetQueue>(queue: &mut Q, batch: u64, frame: &[u8; LEN]) {
    let (_, tx) = queue.split();
    for _ in 0..batch {
        assert!(tx.reserve(LEN));
        tx.slot()[..LEN].copy_from_slice(frame);
        tx.commit(LEN, TxMeta::default()).expect("sent");
    }
    tx.kick();
}

#[inline(never)]
fn driver_side_poll<Q: NetQueue>(queue: &mut Q) {
    queue.poll().expect("no fault");
}

#[inline(never)]
fn driver_side_receive<Q: NetQueue>(queue: &mut Q, batch: u64) {
    let mut seen = 0;
    while seen < batch {
        queue.poll().expect("no fault");
        let (rx, _) = queue.split();
        while let Some(frame) = rx.front() {
            assert!(black_box(frame.len) > 0);
            black_box(rx.segment(0).expect("its bytes").as_ptr());
            rx.pop();
            seen += 1;
        }
    }
}

fn usage() -> ! {
    eprintln!(
        "net-bench virtio-net-tx|virtio-net-rx|netvsc-tx|netvsc-rx|vmxnet3-tx|vmxnet3-rx|netfront-tx|netfront-rx BATCH ROUNDS"
    );
    std::process::exit(2);
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok());
    let (Some(part), Some(batch), Some(rounds)) = (words.first().map(String::as_str), number(1), number(2))
    else {
        usage()
    };
    let frame = [7u8; LEN];
    let kicks = match part {
        "virtio-net-tx" | "virtio-net-rx" => {
            let guest = Guest::new();
            let features = NetFeatures::all();
            let host = NetHost::new(&guest, Ring::Split, features);
            let options = OpenOptions::new().with_queue_size(256);
            let mut card = VirtioNet::<Guest, DmaSlice<Guest>>::open(&guest, host.transport(), &options)
                .expect("a card");
            let mut queue = card.take_queue(0).expect("a queue");
            host.work();
            let index = usize::from(part == "virtio-net-tx");
            let before = host.device().kicks(index);
            for _ in 0..rounds {
                if part == "virtio-net-tx" {
                    counted(|| driver_side_send(&mut queue, batch, black_box(&frame)));
                    host.work();
                    host.take_sent();
                    counted(|| driver_side_poll(&mut queue));
                } else {
                    for _ in 0..batch {
                        host.deliver([0; 10], &frame);
                    }
                    host.work();
                    counted(|| driver_side_receive(&mut queue, batch));
                    counted(|| driver_side_poll(&mut queue));
                    host.work();
                }
            }
            host.device().kicks(index) - before
        }
        "netvsc-tx" | "netvsc-rx" => {
            let guest = Guest::with(1, true);
            let wire = NetVspHost::new();
            let (host, channel) = HvHost::with_device(&guest, INTERFACE, wire.clone());
            let hypervisor = Hypervisor::open(&guest).expect("a hypervisor");
            let vmbus = Vmbus::connect(&hypervisor, Version::NEWEST).expect("a connection");
            let offer = vmbus.find(&Guid([0; 16]), 0).expect("an offer");
            let mut card =
                NetVsc::<Guest, DmaSlice<Guest>>::open(&guest, &vmbus, &offer, &NetOptions::default())
                    .expect("a card");
            let mut queue = card.take_queue(0).expect("a queue");
            let before = host.signals(channel).0;
            for _ in 0..rounds {
                if part == "netvsc-tx" {
                    counted(|| driver_side_send(&mut queue, batch, black_box(&frame)));
                    host.work(&guest, channel);
                    wire.take_sent();
                    counted(|| driver_side_poll(&mut queue));
                } else {
                    for _ in 0..batch {
                        wire.receive(&frame);
                    }
                    host.work(&guest, channel);
                    counted(|| driver_side_receive(&mut queue, batch));
                    counted(|| driver_side_poll(&mut queue));
                    host.work(&guest, channel);
                }
            }
            host.signals(channel).0 - before
        }
        "vmxnet3-tx" | "vmxnet3-rx" => {
            let guest = Guest::new();
            let host = Vmxnet3Host::new(&guest);
            let options = Vmxnet3Options::default();
            let mut card =
                Vmxnet3::<Guest, DmaSlice<Guest>>::new(&guest, host.device(), &options).expect("a card");
            let mut queue = card.take_queue(0).expect("a queue");
            queue.poll().expect("no fault");
            let before = host.doorbells();
            for _ in 0..rounds {
                if part == "vmxnet3-tx" {
                    counted(|| driver_side_send(&mut queue, batch, black_box(&frame)));
                    host.take_sent();
                    counted(|| driver_side_poll(&mut queue));
                } else {
                    (0..batch).for_each(|_| assert!(host.receive(&frame)));
                    counted(|| driver_side_receive(&mut queue, batch));
                    counted(|| driver_side_poll(&mut queue));
                }
            }
            let after = host.doorbells();
            u64::from(after.0 - before.0 + after.1 - before.1)
        }
        "netfront-tx" | "netfront-rx" => {
            let guest = Guest::with(1, true);
            let host = XenHost::new(&guest);
            host.add_card(0, &[]);
            let hypervisor = paravirt_xen::Hypervisor::open(&guest).expect("Xen");
            let store = Store::open(&hypervisor).expect("xenstore");
            let address = Address { class: Class::Net, id: 0 };
            let options = NetFrontOptions::new();
            let mut card =
                NetFront::<Guest, DmaSlice<Guest>>::open(&store, address, &options).expect("a card");
            let mut queue = card.take_queue(0).expect("a queue");
            queue.poll().expect("no fault");
            let before = host.kicks();
            for _ in 0..rounds {
                if part == "netfront-tx" {
                    counted(|| driver_side_send(&mut queue, batch, black_box(&frame)));
                    host.take_sent(0);
                    counted(|| driver_side_poll(&mut queue));
                } else {
                    (0..batch).for_each(|_| assert!(host.receive(0, &frame, &XenReceived::default())));
                    counted(|| driver_side_receive(&mut queue, batch));
                    counted(|| driver_side_poll(&mut queue));
                }
            }
            host.kicks() - before
        }
        _ => usage(),
    };
    let each = count::allocations() as f64 / (rounds * batch) as f64;
    println!("kicks={} allocations={each}", kicks as f64 / rounds as f64);
}
