use core::fmt;

/// A processor, by the platform's numbers: 0 to [`Processors::count`] (exclusive).
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub struct ProcessorId(pub u32);

/// A closure could not be run on another processor.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct RunError;

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the processor is not running")
    }
}

impl core::error::Error for RunError {}

/// The processors of the machine; [`Platform::processors`](crate::Platform::processors) returns it. The default methods are those of
/// a machine with one processor.
///
/// No method is called in interrupt context; only [`run_on`](Self::run_on) blocks.
pub trait Processors: Send + Sync {
    /// Returns how many processors run; a device uses at most that many queues.
    fn count(&self) -> u32 {
        1
    }

    /// Returns the current processor.
    fn current(&self) -> ProcessorId {
        ProcessorId(0)
    }

    /// Runs `work` on `processor` and waits for it. Some registers, such as those of a SynIC, can only be written there.
    ///
    /// Called when Hyper-V's interrupt controllers are switched on and off, when a timer is set, and to fetch a message of VMBus
    /// that no interrupt fetches. `work` takes no lock, does not block and may run in interrupt context.
    ///
    /// # Errors
    ///
    /// [`RunError`] if the processor does not run; `work` has then not been called.
    fn run_on(&self, processor: ProcessorId, work: &mut (dyn FnMut() + Send)) -> Result<(), RunError> {
        if processor != self.current() {
            return Err(RunError);
        }
        work();
        Ok(())
    }
}
