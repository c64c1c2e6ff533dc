//! The key-value pair service: settings of the host for the guest, and facts of the guest for the host.

use crate::Malformed;
use crate::text::{Text, put_utf16};
use hyperv_bindings::ic::{
    IcKvpDelete, IcKvpEnumerate, IcKvpHeader, IcKvpOperation, IcKvpPool, IcKvpValue, IcKvpValueType, IcStatus,
};
use paravirt_device::{Agent, Fact, ValuePool};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// Bytes of a key and of a value in UTF-8, at most: three for each UTF-16 unit.
const MAX_KEY: usize = 768;
const MAX_VALUE: usize = 3072;
/// The facts and their names on the host, in the order in which the host enumerates them.
const FACTS: [(&str, Fact); 9] = [
    ("FullyQualifiedDomainName", Fact::HostName),
    ("NetworkAddressIPv4", Fact::Addresses4),
    ("NetworkAddressIPv6", Fact::Addresses6),
    ("OSBuildNumber", Fact::OsBuild),
    ("OSName", Fact::OsName),
    ("OSMajorVersion", Fact::OsMajor),
    ("OSMinorVersion", Fact::OsMinor),
    ("OSVersion", Fact::OsVersion),
    ("ProcessorArchitecture", Fact::Architecture),
];

/// Answers a message in place; returns its status.
pub(crate) fn answer(body: &mut [u8], agent: &mut dyn Agent) -> Result<IcStatus, Malformed> {
    let (header, _) = IcKvpHeader::read_from_prefix(body).map_err(|_| Malformed)?;
    let rest = body.get_mut(size_of::<IcKvpHeader>()..).ok_or(Malformed)?;
    let pool = match header.pool {
        IcKvpPool::EXTERNAL => Some(ValuePool::FromHost),
        IcKvpPool::GUEST => Some(ValuePool::FromGuest),
        IcKvpPool::AUTO_EXTERNAL => Some(ValuePool::HostFacts),
        IcKvpPool::AUTO => None,
        _ => return Ok(IcStatus::FAILURE),
    };
    match (header.operation, pool) {
        (IcKvpOperation::SET, Some(pool)) => set(rest, pool, agent),
        (IcKvpOperation::DELETE, Some(pool)) => delete(rest, pool, agent),
        (IcKvpOperation::GET, Some(pool)) => get(rest, pool, agent),
        (IcKvpOperation::ENUMERATE, pool) => list(rest, pool, agent),
        // The host does not set addresses; it reads them as facts.
        _ => Ok(IcStatus::NOT_SUPPORTED),
    }
}

// Each operation has texts of kilobytes on the stack: a frame of its own, so that they do not add up.

#[inline(never)]
fn set(rest: &[u8], pool: ValuePool, agent: &mut dyn Agent) -> Result<IcStatus, Malformed> {
    let (value, _) = IcKvpValue::read_from_prefix(rest).map_err(|_| Malformed)?;
    let mut key = Text::<MAX_KEY>::new();
    decode_text(&value.key, value.key_size, &mut key)?;
    let mut text = Text::<MAX_VALUE>::new();
    decode(&value, &mut text)?;
    Ok(done(agent.set_value(pool, key.as_str(), Some(text.as_str()))))
}

#[inline(never)]
fn delete(rest: &[u8], pool: ValuePool, agent: &mut dyn Agent) -> Result<IcStatus, Malformed> {
    let (delete, _) = IcKvpDelete::read_from_prefix(rest).map_err(|_| Malformed)?;
    let mut key = Text::<MAX_KEY>::new();
    decode_text(&delete.key, delete.key_size, &mut key)?;
    Ok(done(agent.set_value(pool, key.as_str(), None)))
}

#[inline(never)]
fn get(rest: &mut [u8], pool: ValuePool, agent: &mut dyn Agent) -> Result<IcStatus, Malformed> {
    let (mut value, _) = IcKvpValue::read_from_prefix(rest).map_err(|_| Malformed)?;
    let mut key = Text::<MAX_KEY>::new();
    decode_text(&value.key, value.key_size, &mut key)?;
    let mut found = Text::<MAX_VALUE>::new();
    if agent.value(pool, key.as_str(), &mut found).is_err() {
        return Ok(IcStatus::NOT_FOUND);
    }
    encode(&mut value, key.as_str(), found.as_str()).ok_or(Malformed)?;
    put(rest, value.as_bytes());
    Ok(IcStatus::SUCCESS)
}

#[inline(never)]
fn list(rest: &mut [u8], pool: Option<ValuePool>, agent: &mut dyn Agent) -> Result<IcStatus, Malformed> {
    let (mut asked, _) = IcKvpEnumerate::read_from_prefix(rest).map_err(|_| Malformed)?;
    asked.value.zero();
    if enumerate(pool, asked.index, &mut asked.value, agent).is_none() {
        return Ok(IcStatus::NO_MORE_ITEMS);
    }
    put(rest, asked.as_bytes());
    Ok(IcStatus::SUCCESS)
}

fn done(is_done: bool) -> IcStatus {
    if is_done { IcStatus::SUCCESS } else { IcStatus::FAILURE }
}

fn put(rest: &mut [u8], bytes: &[u8]) {
    rest.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
}

/// Decodes text of `size` bytes, its terminating zero included.
fn decode_text<const N: usize>(bytes: &[u8], size: u32, out: &mut Text<N>) -> Result<(), Malformed> {
    let bytes = bytes.get(..usize::try_from(size).map_err(|_| Malformed)?).ok_or(Malformed)?;
    out.push_utf16(bytes).ok_or(Malformed)
}

/// Decodes a value as text, whatever its type.
fn decode(value: &IcKvpValue, out: &mut Text<MAX_VALUE>) -> Result<(), Malformed> {
    use core::fmt::Write;
    match value.value_type {
        IcKvpValueType::DWORD => {
            let (word, _) = U32::read_from_prefix(&value.value).map_err(|_| Malformed)?;
            write!(out, "{word}").map_err(|_| Malformed)
        }
        IcKvpValueType::QWORD => {
            let (word, _) = U64::read_from_prefix(&value.value).map_err(|_| Malformed)?;
            write!(out, "{word}").map_err(|_| Malformed)
        }
        _ => decode_text(&value.value, value.value_size, out),
    }
}

fn encode(value: &mut IcKvpValue, key: &str, text: &str) -> Option<()> {
    value.value_type = IcKvpValueType::STRING;
    value.key_size = put_utf16(key, &mut value.key)?;
    value.value_size = put_utf16(text, &mut value.value)?;
    Some(())
}

/// Encodes value `index` of `pool`, or fact `index` where `pool` is `None`: the pool of the guest's facts.
fn enumerate(
    pool: Option<ValuePool>,
    index: u32,
    value: &mut IcKvpValue,
    agent: &mut dyn Agent,
) -> Option<()> {
    let mut text = Text::<MAX_VALUE>::new();
    let Some(pool) = pool else {
        // A fact that the kernel does not know is empty, so that the others keep their indices.
        let (name, fact) = FACTS.get(usize::try_from(index).ok()?)?;
        if agent.fact(*fact, &mut text).is_err() {
            text.clear();
        }
        return encode(value, name, text.as_str());
    };
    let mut key = Text::<MAX_KEY>::new();
    agent.key(pool, index, &mut key).ok()?;
    agent.value(pool, key.as_str(), &mut text).ok()?;
    encode(value, key.as_str(), text.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::fmt::{self, Write};
    use std::{
        string::{String, ToString},
        vec::Vec,
    };

    #[derive(Default)]
    struct Values(Vec<(String, String)>);

    impl Agent for Values {
        fn fact(&mut self, fact: Fact, out: &mut dyn Write) -> fmt::Result {
            if fact == Fact::OsName { out.write_str("paravirt") } else { Err(fmt::Error) }
        }
        fn set_value(&mut self, _: ValuePool, key: &str, value: Option<&str>) -> bool {
            let before = self.0.len();
            self.0.retain(|(other, _)| other != key);
            match value {
                Some(value) => self.0.push((key.to_string(), value.to_string())),
                None => return self.0.len() < before,
            }
            true
        }
        fn value(&mut self, _: ValuePool, key: &str, out: &mut dyn Write) -> fmt::Result {
            let (_, value) = self.0.iter().find(|(other, _)| other == key).ok_or(fmt::Error)?;
            out.write_str(value)
        }
        fn key(&mut self, _: ValuePool, index: u32, out: &mut dyn Write) -> fmt::Result {
            out.write_str(&self.0.get(index as usize).ok_or(fmt::Error)?.0)
        }
    }

    fn body(operation: IcKvpOperation, pool: IcKvpPool, rest: &[u8]) -> Vec<u8> {
        [IcKvpHeader { operation, pool, reserved: 0 }.as_bytes(), rest].concat()
    }

    fn pair(key: &str, text: &str) -> IcKvpValue {
        let mut value = IcKvpValue::new_zeroed();
        encode(&mut value, key, text).expect("short");
        value
    }

    #[test]
    fn values_are_set_read_listed_and_deleted() {
        let values = &mut Values::default();
        let mut run = |operation, pool, rest: &[u8]| {
            let mut bytes = body(operation, pool, rest);
            let status = answer(&mut bytes, values).expect("well-formed");
            (status, bytes[4..].to_vec())
        };
        let external = IcKvpPool::EXTERNAL;
        assert_eq!(run(IcKvpOperation::SET, external, pair("k", "v\u{e9}").as_bytes()).0, IcStatus::SUCCESS);
        let mut number = pair("n", "");
        (number.value_type, number.value_size) = (IcKvpValueType::DWORD, 4);
        number.value[..4].copy_from_slice(&77u32.to_le_bytes());
        assert_eq!(run(IcKvpOperation::SET, external, number.as_bytes()).0, IcStatus::SUCCESS);
        let (status, got) = run(IcKvpOperation::GET, external, pair("n", "").as_bytes());
        assert_eq!((status, &got[..]), (IcStatus::SUCCESS, pair("n", "77").as_bytes()));
        assert_eq!(run(IcKvpOperation::GET, external, pair("x", "").as_bytes()).0, IcStatus::NOT_FOUND);
        let list = |index| IcKvpEnumerate { index, value: IcKvpValue::new_zeroed() };
        let (_, got) = run(IcKvpOperation::ENUMERATE, external, list(0).as_bytes());
        assert_eq!(&got[4..], pair("k", "v\u{e9}").as_bytes());
        assert_eq!(run(IcKvpOperation::ENUMERATE, external, list(2).as_bytes()).0, IcStatus::NO_MORE_ITEMS);
        let mut delete = IcKvpDelete { key_size: 0, key: [0; 512] };
        delete.key_size = put_utf16("k", &mut delete.key).expect("short");
        assert_eq!(run(IcKvpOperation::DELETE, external, delete.as_bytes()).0, IcStatus::SUCCESS);
        assert_eq!(run(IcKvpOperation::DELETE, external, delete.as_bytes()).0, IcStatus::FAILURE);
        let (_, got) = run(IcKvpOperation::ENUMERATE, IcKvpPool::AUTO, list(4).as_bytes());
        assert_eq!(&got[4..], pair("OSName", "paravirt").as_bytes());
        assert_eq!(
            run(IcKvpOperation::ENUMERATE, IcKvpPool::AUTO, list(9).as_bytes()).0,
            IcStatus::NO_MORE_ITEMS
        );
        assert_eq!(run(IcKvpOperation::GET_IP, external, &[0; 4096]).0, IcStatus::NOT_SUPPORTED);
    }

    #[test]
    fn messages_with_oversized_text_are_malformed() {
        let values = &mut Values::default();
        let mut value = pair("k", "v");
        value.key_size = 514;
        let mut bytes = body(IcKvpOperation::SET, IcKvpPool::EXTERNAL, value.as_bytes());
        assert_eq!(answer(&mut bytes, values), Err(Malformed));
        bytes.truncate(100);
        assert_eq!(answer(&mut bytes, values), Err(Malformed));
        assert_eq!(answer(&mut [3], values), Err(Malformed));
    }
}
