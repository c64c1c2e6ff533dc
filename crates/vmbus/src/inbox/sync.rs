//! What the inbox's protocols are made of. The model under loom compiles them over loom's items of these names instead.

pub use core::sync::atomic::{AtomicBool, AtomicU32};
