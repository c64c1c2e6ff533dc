//! Xen's paravirtual network cards.
#![no_std]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

mod card;
mod class;
mod queue;
mod rx;
mod tx;
mod wire;

pub use card::{NetFront, NetFrontOptions};
pub use queue::NetFrontQueue;
pub use rx::NetFrontRx;
pub use tx::NetFrontTx;
