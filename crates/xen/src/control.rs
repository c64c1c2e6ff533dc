//! What the host asks of the guest as a whole, by `control/shutdown`. Xen `docs/misc/xenstore-paths.pandoc`

use crate::store::{Store, StoreError, Watch};
use crate::text::Text;
use core::fmt;
use paravirt_device::{Agent, PowerRequest};
use paravirt_platform::{PageArc, Platform};

/// The requests that the guest answers.
const FEATURES: [&str; 3] = ["poweroff", "reboot", "suspend"];

/// The host's requests to shut down.
pub struct Control<P: Platform> {
    store: PageArc<P, Store<P>>,
    watch: Watch<P>,
}

impl<P: Platform> Control<P> {
    /// Watches the requests, and tells the host which the guest answers.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn open(store: &PageArc<P, Store<P>>) -> Result<Self, StoreError> {
        let watch = Watch::new(store, format_args!("control/shutdown"))?;
        let this = Self { store: store.clone(), watch };
        this.announce();
        Ok(this)
    }

    /// Tells the host which requests the guest answers: at first, and after the guest was resumed.
    pub fn announce(&self) {
        for feature in FEATURES {
            // Some hosts do not let guests write there.
            let _ = self.store.write(format_args!("control/feature-{feature}"), format_args!("1"));
        }
    }

    /// Passes a request that the host has made to `agent`. The host is told that it has been seen; if `agent` complies, the guest ends by
    /// itself. Returns whether it is to be suspended now.
    pub fn serve(&self, agent: &mut dyn Agent) -> bool {
        self.store.poll();
        if !self.watch.take() {
            return false;
        }
        let Ok(request) = self.store.text::<32>(format_args!("control/shutdown")) else { return false };
        let power = match request.as_str() {
            "" => return false,
            "poweroff" | "halt" => Some(PowerRequest::PowerOff),
            "reboot" => Some(PowerRequest::Restart),
            "suspend" => Some(PowerRequest::Suspend),
            _ => None,
        };
        if let Err(error) = self.acknowledge(&request) {
            log::warn!("xen: {error}: the request \"{request}\" is not acknowledged");
        }
        let Some(power) = power else {
            log::warn!("xen: the host asks for \"{request}\", which is not supported");
            return false;
        };
        agent.power(power, false) && power == PowerRequest::Suspend
    }

    /// Empties the node, unless there is another request meanwhile.
    fn acknowledge(&self, request: &Text<32>) -> Result<(), StoreError> {
        let path = format_args!("control/shutdown");
        self.store.transaction(|transaction| match self.store.text::<32>(path)? {
            now if now == *request => transaction.write(path, format_args!("")),
            _ => Ok(()),
        })
    }
}

impl<P: Platform> fmt::Debug for Control<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").field("watch", &self.watch).finish_non_exhaustive()
    }
}
