//! Answers to the messages of the services, written in place by total functions: the guest sends the bytes of a request back,
//! with its answer in them.

use crate::kvp;
use crate::service::{FRAMEWORKS, version};
use crate::{Malformed, Service};
use core::time::Duration;
use hyperv_bindings::ic::{
    IC_UNIX_EPOCH, IcHeader, IcHeartbeat, IcHeartbeatState, IcMessageFlags, IcMessageType, IcNegotiate,
    IcShutdown, IcShutdownFlags, IcStatus, IcTime, IcTime4, IcTimeFlags, IcVersion,
};
use paravirt_device::{Agent, HostTime, PowerRequest};
use zerocopy::{FromBytes, IntoBytes};

/// Bytes of the header of a message.
pub(crate) const HEADER: usize = size_of::<IcHeader>();

fn set_status(header: &mut IcHeader, status: IcStatus) {
    let IcStatus(status) = status;
    (header.status_low, header.status_high) = (status as u16, (status >> 16) as u16);
}

/// Answers a message of `service` in place: writes the answer to `message`, header included, for the caller to send back.
///
/// `reference` is the reference time of the hypervisor in units of 100 ns, where there is one. What the message asks of the
/// kernel is passed to `agent` before the answer is sent. Messages that the service does not have are answered with
/// "not supported".
///
/// # Errors
///
/// [`Malformed`] where the message is shorter than its header or its type says; it is not to be answered then.
pub fn answer(
    service: Service,
    message: &mut [u8],
    reference: Option<u64>,
    agent: &mut dyn Agent,
) -> Result<(), Malformed> {
    let (mut header, _) = IcHeader::read_from_prefix(message).map_err(|_| Malformed)?;
    let body = message.get_mut(HEADER..).ok_or(Malformed)?;
    let size = usize::from(header.message_size);
    let body = body.get_mut(..size).ok_or(Malformed)?;
    let status = match header.message_type {
        IcMessageType::NEGOTIATE => {
            header.message_size = negotiate(service, body)?;
            IcStatus::SUCCESS
        }
        IcMessageType::HEARTBEAT if service == Service::Heartbeat => heartbeat(body)?,
        IcMessageType::SHUTDOWN if service == Service::Shutdown => shutdown(body, agent)?,
        IcMessageType::TIME_SYNC if service == Service::TimeSync => {
            time(header.message_version, body, reference, agent)?
        }
        IcMessageType::KVP if service == Service::KeyValue => kvp::answer(body, agent)?,
        // Backups and file copies are declined, and so is a message of another service.
        _ => IcStatus::NOT_SUPPORTED,
    };
    set_status(&mut header, status);
    header.flags = (IcMessageFlags::TRANSACTION | IcMessageFlags::RESPONSE).bits();
    message.iter_mut().zip(header.as_bytes()).for_each(|(to, from)| *to = *from);
    Ok(())
}

/// The newest of `ours` that the host offers too.
fn common(ours: &[IcVersion], theirs: &[u8]) -> Option<IcVersion> {
    let is_there = |version: &&IcVersion| theirs.chunks_exact(4).any(|bytes| bytes == version.as_bytes());
    ours.iter().find(is_there).copied()
}

/// Chooses the newest common versions; returns the length of the answer. Counts of 0 say that there are none.
fn negotiate(service: Service, body: &mut [u8]) -> Result<u16, Malformed> {
    let (offer, versions) = IcNegotiate::read_from_prefix(body).map_err(|_| Malformed)?;
    let split = usize::from(offer.framework_count).checked_mul(4).ok_or(Malformed)?;
    let len = usize::from(offer.message_count).checked_mul(4).ok_or(Malformed)?;
    let (frameworks, messages) = versions.split_at_checked(split).ok_or(Malformed)?;
    let messages = messages.get(..len).ok_or(Malformed)?;
    let chosen = common(&FRAMEWORKS, frameworks).zip(common(service.versions(), messages));
    let (count, versions) = match chosen {
        Some((framework, message)) => (1, [framework, message]),
        None => (0, [version(0, 0); 2]),
    };
    let answer = IcNegotiate { framework_count: count, message_count: count, reserved: 0 };
    let bytes = answer.as_bytes().iter().chain(versions.as_bytes());
    let len = body.len().min(size_of::<IcNegotiate>().saturating_add(size_of_val(&versions)));
    body.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    Ok(len as u16)
}

fn heartbeat(body: &mut [u8]) -> Result<IcStatus, Malformed> {
    let (mut beat, _) = IcHeartbeat::read_from_prefix(body).map_err(|_| Malformed)?;
    beat.sequence = beat.sequence.wrapping_add(1);
    beat.state = IcHeartbeatState::HEALTHY;
    body.iter_mut().zip(beat.as_bytes()).for_each(|(to, from)| *to = *from);
    Ok(IcStatus::SUCCESS)
}

fn shutdown(body: &[u8], agent: &mut dyn Agent) -> Result<IcStatus, Malformed> {
    let (asked, _) = IcShutdown::read_from_prefix(body).map_err(|_| Malformed)?;
    let flags = IcShutdownFlags::from_bits_retain(asked.flags);
    let is_forced = flags.contains(IcShutdownFlags::FORCE);
    let request = match flags.difference(IcShutdownFlags::FORCE) {
        IcShutdownFlags::RESTART => PowerRequest::Restart,
        IcShutdownFlags::HIBERNATE => PowerRequest::Hibernate,
        flags if flags.is_empty() => PowerRequest::PowerOff,
        _ => return Ok(IcStatus::FAILURE),
    };
    Ok(if agent.power(request, is_forced) { IcStatus::SUCCESS } else { IcStatus::FAILURE })
}

fn time(
    version: IcVersion,
    body: &[u8],
    reference: Option<u64>,
    agent: &mut dyn Agent,
) -> Result<IcStatus, Malformed> {
    let (time, passed, flags) = if version.major >= 4 {
        let (time, _) = IcTime4::read_from_prefix(body).map_err(|_| Malformed)?;
        // The time since the host read its clock. A reference time in the future is not believed.
        let passed = reference.and_then(|now| now.checked_sub(time.reference_time)).unwrap_or(0);
        (time.parent_time, passed, time.flags)
    } else {
        let (time, _) = IcTime::read_from_prefix(body).map_err(|_| Malformed)?;
        (time.parent_time, 0, time.flags)
    };
    let flags = IcTimeFlags::from_bits_truncate(flags);
    if let Some(units) = time.checked_add(passed).and_then(|time| time.checked_sub(IC_UNIX_EPOCH)) {
        if !flags.is_empty() {
            let (seconds, rest) = (units / UNITS, units % UNITS);
            let since_1970 = Duration::new(seconds, (rest as u32).saturating_mul(100));
            let mut time = HostTime::new(since_1970);
            time.is_step = flags.contains(IcTimeFlags::SYNC);
            agent.time(time);
        }
    }
    Ok(IcStatus::SUCCESS)
}

/// Units of 100 ns in a second.
const UNITS: u64 = 10_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use std::{vec, vec::Vec};

    #[derive(Default)]
    struct Kernel {
        power: Vec<(PowerRequest, bool)>,
        times: Vec<HostTime>,
    }

    impl Agent for Kernel {
        fn power(&mut self, request: PowerRequest, is_forced: bool) -> bool {
            self.power.push((request, is_forced));
            request != PowerRequest::Hibernate
        }
        fn time(&mut self, time: HostTime) {
            self.times.push(time);
        }
    }

    fn message(kind: IcMessageType, version: IcVersion, body: &[u8]) -> Vec<u8> {
        let header = IcHeader {
            framework_version: super::version(3, 0),
            message_type: kind,
            message_version: version,
            message_size: body.len() as u16,
            status_low: 0,
            status_high: 0,
            transaction_id: 9,
            flags: 3,
            reserved: 0,
        };
        [header.as_bytes(), body].concat()
    }

    /// The status, and the body.
    fn ask(service: Service, kernel: &mut Kernel, mut bytes: Vec<u8>) -> (u32, Vec<u8>) {
        answer(service, &mut bytes, Some(1_000_050), kernel).expect("well-formed");
        let (header, body) = IcHeader::read_from_prefix(&bytes).expect("a header");
        assert_eq!((header.transaction_id, header.flags), (9, 5));
        let status = u32::from(header.status_low) | u32::from(header.status_high) << 16;
        (status, body[..usize::from(header.message_size)].to_vec())
    }

    #[test]
    fn the_newest_common_version_is_chosen() {
        let offer = |frameworks: &[(u16, u16)], messages: &[(u16, u16)]| {
            let counts = [frameworks.len() as u16, messages.len() as u16, 0, 0];
            let words = frameworks.iter().chain(messages).flat_map(|(major, minor)| [*major, *minor]);
            let body: Vec<u8> = counts.into_iter().chain(words).flat_map(u16::to_le_bytes).collect();
            message(IcMessageType::NEGOTIATE, version(0, 0), &body)
        };
        let words =
            |body: &[u8]| body.chunks(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect::<Vec<_>>();
        let kernel = &mut Kernel::default();
        let (_, body) = ask(Service::TimeSync, kernel, offer(&[(1, 0), (3, 0)], &[(3, 0), (4, 0), (9, 0)]));
        assert_eq!(words(&body), [1, 1, 0, 0, 3, 0, 4, 0]);
        let (_, body) = ask(Service::TimeSync, kernel, offer(&[(3, 0)], &[(9, 0)]));
        assert_eq!(words(&body)[..2], [0, 0]);
        // A count beyond the end of the message.
        let mut bytes = offer(&[(3, 0)], &[(4, 0)]);
        bytes[HEADER] = 3;
        assert_eq!(answer(Service::TimeSync, &mut bytes, None, kernel), Err(Malformed));
    }

    #[test]
    fn every_service_answers_its_own_messages() {
        let kernel = &mut Kernel::default();
        let beat = IcHeartbeat { sequence: 41, state: IcHeartbeatState::UNKNOWN, reserved: 0 };
        let bytes = message(IcMessageType::HEARTBEAT, version(3, 0), beat.as_bytes());
        let (status, body) = ask(Service::Heartbeat, kernel, bytes.clone());
        assert_eq!((status, body[0], body[8]), (0, 42, 1));
        assert_eq!(ask(Service::Shutdown, kernel, bytes).0, IcStatus::NOT_SUPPORTED.0);

        let end = |flags: u32| {
            let body = [0x8000_0000u32, 30, flags].map(u32::to_le_bytes).concat();
            message(IcMessageType::SHUTDOWN, version(3, 2), &body)
        };
        assert_eq!(ask(Service::Shutdown, kernel, end(1)).0, 0);
        assert_eq!(ask(Service::Shutdown, kernel, end(2)).0, 0);
        assert_eq!(ask(Service::Shutdown, kernel, end(5)).0, IcStatus::FAILURE.0);
        assert_eq!(ask(Service::Shutdown, kernel, end(8)).0, IcStatus::FAILURE.0);
        let expected =
            [(PowerRequest::PowerOff, true), (PowerRequest::Restart, false), (PowerRequest::Hibernate, true)];
        assert_eq!(kernel.power, expected);

        let parent_time = IC_UNIX_EPOCH + 5 * UNITS;
        let time = IcTime4 {
            parent_time,
            reference_time: 1_000_000,
            flags: 1,
            leap: 0,
            stratum: 0,
            reserved: [0; 5],
        };
        let (status, body) =
            ask(Service::TimeSync, kernel, message(IcMessageType::TIME_SYNC, version(4, 0), time.as_bytes()));
        assert_eq!((status, &body[..]), (0, time.as_bytes()));
        let old = IcTime { parent_time, child_time: 0, round_trip: 0, flags: 2, reserved: [0; 7] };
        ask(Service::TimeSync, kernel, message(IcMessageType::TIME_SYNC, version(3, 0), old.as_bytes()));
        let expected = [(5, 5_000, true), (5, 0, false)].map(|(seconds, nanos, is_step)| {
            let mut time = HostTime::new(Duration::new(seconds, nanos));
            time.is_step = is_step;
            time
        });
        assert_eq!(kernel.times, expected);
        // Before 1970, and beyond the range of a sum.
        for parent_time in [0, u64::MAX] {
            let time = IcTime4 { parent_time, ..time };
            ask(Service::TimeSync, kernel, message(IcMessageType::TIME_SYNC, version(4, 0), time.as_bytes()));
        }
        assert_eq!(kernel.times.len(), 2);
        for (service, kind) in
            [(Service::Backup, IcMessageType::VSS), (Service::FileCopy, IcMessageType::FILE_COPY)]
        {
            let bytes = message(kind, version(1, 1), &[0; 64]);
            assert_eq!(ask(service, kernel, bytes), (IcStatus::NOT_SUPPORTED.0, vec![0; 64]));
        }
    }
}
