//! Implements `Debug` for the public types, without the contents of the rings.

use super::{VirtioNet, VirtioNetQueue, VirtioRx};
use core::fmt;
use paravirt_platform::{DmaBuffer, Platform};

impl<P: Platform, B: DmaBuffer> fmt::Debug for VirtioNet<P, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VirtioNet")
            .field("info", &self.info)
            .field("link", &self.link)
            .field("features", &self.features)
            .finish_non_exhaustive()
    }
}

impl<P: Platform, B: DmaBuffer> fmt::Debug for VirtioNetQueue<P, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VirtioNetQueue").finish_non_exhaustive()
    }
}

impl<P: Platform> fmt::Debug for VirtioRx<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VirtioRx").finish_non_exhaustive()
    }
}
