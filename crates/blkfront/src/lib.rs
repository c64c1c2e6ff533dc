//! Xen's paravirtual disks.
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

mod class;
mod disk;
mod queue;
mod ring;
mod wire;

pub use disk::{BlkFront, BlkFrontOptions};
pub use queue::BlkFrontQueue;
