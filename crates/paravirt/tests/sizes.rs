//! The sizes of what a kernel passes about by value: its stacks may be small.

use paravirt::{
    AnyBalloon, AnyConsole, AnyEntropy, AnyInput, AnySockets, Block, Device, Event, Found, Net, Services,
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
