use core::time::Duration;

/// A point in time on the platform's monotonic clock, in nanoseconds since an epoch that the platform chooses.
///
/// Deadlines are absolute and of this type. The range is 584 years; arithmetic saturates.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Ord, PartialOrd, Hash)]
#[repr(transparent)]
pub struct Instant(u64);

impl Instant {
    /// The platform's epoch.
    pub const ZERO: Self = Self(0);
    /// The last instant: a deadline that never passes.
    pub const NEVER: Self = Self(u64::MAX);

    /// Returns the instant `nanos` nanoseconds after the epoch.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Returns the nanoseconds since the epoch.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Returns the instant `duration` after this one, or [`NEVER`](Self::NEVER) if it is out of range.
    pub const fn saturating_add(self, duration: Duration) -> Self {
        let nanos = duration.as_nanos();
        Self(if nanos > u64::MAX as u128 { u64::MAX } else { self.0.saturating_add(nanos as u64) })
    }

    /// Returns the time from `earlier` to this instant; zero if `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        let late = Instant::NEVER.saturating_add(Duration::from_secs(1));
        assert_eq!(late, Instant::NEVER);
        assert_eq!(Instant::ZERO.since(Instant::from_nanos(5)), Duration::ZERO);
        assert_eq!(Instant::from_nanos(7).since(Instant::from_nanos(5)), Duration::from_nanos(2));
        assert_eq!(Instant::ZERO.saturating_add(Duration::MAX), Instant::NEVER);
    }
}
