//! How long the host may take.

use core::time::Duration;

/// How long a connection and the drivers on it wait for the host.
///
/// The defaults are what hosts under load have been seen to need: Linux waits 60 to 180 seconds or without a limit at the same places.
/// Only a host that does not answer at all makes a call as long as that.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Timeouts {
    /// Until the host accepts a message that it refuses because it is busy. 60 seconds by default.
    pub post: Duration,
    /// Until the host answers INITIATE_CONTACT. 60 seconds by default.
    pub contact: Duration,
    /// Until the host reports that all offers were delivered; the connection then goes on with those that came. 10 seconds by default.
    pub offers: Duration,
    /// Until the host answers anything else: a channel's opening, a GPADL, a request of a driver's own, the offers of subchannels that
    /// a driver asked for. 180 seconds by default.
    pub answer: Duration,
    /// Until the host answers UNLOAD: it may have caches to write back. 100 seconds by default.
    pub unload: Duration,
}

impl Timeouts {
    /// The defaults.
    pub const fn new() -> Self {
        Self {
            post: Duration::from_secs(60),
            contact: Duration::from_secs(60),
            offers: Duration::from_secs(10),
            answer: Duration::from_secs(180),
            unload: Duration::from_secs(100),
        }
    }

    /// Sets [`post`](Self::post).
    #[must_use]
    pub const fn with_post(self, post: Duration) -> Self {
        Self { post, ..self }
    }

    /// Sets [`contact`](Self::contact).
    #[must_use]
    pub const fn with_contact(self, contact: Duration) -> Self {
        Self { contact, ..self }
    }

    /// Sets [`offers`](Self::offers).
    #[must_use]
    pub const fn with_offers(self, offers: Duration) -> Self {
        Self { offers, ..self }
    }

    /// Sets [`answer`](Self::answer).
    #[must_use]
    pub const fn with_answer(self, answer: Duration) -> Self {
        Self { answer, ..self }
    }

    /// Sets [`unload`](Self::unload).
    #[must_use]
    pub const fn with_unload(self, unload: Duration) -> Self {
        Self { unload, ..self }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self::new()
    }
}
