use hyperv_bindings::ic::IcVersion;
use hyperv_bindings::vmbus;
use paravirt_vmbus::Guid;

/// An integration service.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Service {
    /// The host asks the guest to shut down, restart or hibernate.
    Shutdown,
    /// The host checks whether the guest is alive.
    Heartbeat,
    /// The host sends its time.
    TimeSync,
    /// Key-value pairs (KVP): host and guest exchange settings and facts.
    KeyValue,
    /// Backups of a running guest (VSS): declined.
    Backup,
    /// Copies of files to the guest: declined.
    FileCopy,
}

pub(crate) const fn version(major: u16, minor: u16) -> IcVersion {
    IcVersion { major, minor }
}

/// The versions of the message framework, from the newest down.
pub(crate) const FRAMEWORKS: [IcVersion; 2] = [version(3, 0), version(1, 0)];

impl Service {
    /// The versions of the service's messages, from the newest down.
    pub(crate) const fn versions(self) -> &'static [IcVersion] {
        match self {
            Self::Shutdown => const { &[version(3, 2), version(3, 1), version(3, 0), version(1, 0)] },
            Self::Heartbeat => const { &[version(3, 0), version(1, 0)] },
            Self::TimeSync => const { &[version(4, 0), version(3, 0), version(1, 0)] },
            Self::KeyValue => const { &[version(5, 0), version(4, 0), version(3, 0)] },
            Self::Backup => const { &[version(7, 0), version(6, 0), version(5, 0), version(4, 0)] },
            Self::FileCopy => const { &[version(1, 1)] },
        }
    }
}

/// The integration service that a VMBus interface type stands for; `None` where it is another class of device.
pub fn service(interface: &Guid) -> Option<Service> {
    Some(match *interface {
        vmbus::SHUTDOWN => Service::Shutdown,
        vmbus::HEARTBEAT => Service::Heartbeat,
        vmbus::TIME_SYNC => Service::TimeSync,
        vmbus::KVP => Service::KeyValue,
        vmbus::VSS => Service::Backup,
        vmbus::FILE_COPY => Service::FileCopy,
        _ => return None,
    })
}
