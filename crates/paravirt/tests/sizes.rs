//! The sizes of what a kernel passes about by value: its stacks may be small.

use paravirt::{
    AnyBalloon, AnyConsole, AnyEntropy, AnyInput, AnySockets, Block, BlockQ, Device, Event, Found, Net, NetQ,
    Services,
};
use paravirt_platform::DmaSlice;
use paravirt_testhost::Guest;

type Buffer = DmaSlice<Guest>;

#[test]
fn no_device_value_is_above_512_bytes() {
    let sizes = [
        size_of::<Device<Guest, Buffer>>(),
        size_of::<Found<Guest, Buffer>>(),
        size_of::<Event<Guest, Buffer>>(),
        size_of::<Block<Guest, Buffer>>(),
        size_of::<Net<Guest, Buffer>>(),
        size_of::<AnyBalloon<Guest>>(),
        size_of::<AnyConsole<Guest>>(),
        size_of::<AnyEntropy<Guest>>(),
        size_of::<AnyInput<Guest>>(),
        size_of::<AnySockets<Guest>>(),
        size_of::<Services<Guest, Buffer>>(),
    ];
    assert!(sizes.iter().all(|size| *size <= 512), "{sizes:?}");
}

/// Kernels keep devices and queues in tables that several processors reach.
#[test]
fn devices_and_queues_are_shared_between_processors() {
    fn is_shared<T: Send + Sync>() {}
    is_shared::<Block<Guest, Buffer>>();
    is_shared::<BlockQ<Guest, Buffer>>();
    is_shared::<Net<Guest, Buffer>>();
    is_shared::<NetQ<Guest, Buffer>>();
    is_shared::<AnyBalloon<Guest>>();
    is_shared::<AnyConsole<Guest>>();
    is_shared::<AnyEntropy<Guest>>();
    is_shared::<AnyInput<Guest>>();
    is_shared::<AnySockets<Guest>>();
    is_shared::<Services<Guest, Buffer>>();
}
