//! Identification of a unit: INQUIRY, vital product data, capacity and mode.

use crate::Cdb;
use crate::controller_shared::{CommandError, Control, ControllerShared};
use crate::data::{self, BlockLimits, Capacity, Peripheral, Provisioning, page};
use crate::transport::{Address, ScsiTransport};
use core::fmt;
use paravirt_device::{Access, BlockInfo, Cache, DiscardLimits, Fault, IoError, Serial, Unmap, ZeroLimits};
use paravirt_platform::{DmaBuffer, Platform};

/// Blocks of a WRITE SAME, where the unit reports no limit.
const WRITE_SAME_BLOCKS: u32 = 0x4000;
/// Tries of a TEST UNIT READY.
const READY_TRIES: usize = 3;
/// The supported block sizes.
const BLOCK_SIZES: core::ops::RangeInclusive<u32> = 512..=4096;

/// What identification finds.
pub(crate) struct Identity {
    pub info: BlockInfo,
    pub has_fua: bool,
    pub is_optical: bool,
    /// A hash of vendor, product, revision and name: [`Found::hash`].
    pub hash: u64,
    /// The unit said what its name is, or that it has none.
    pub is_certain: bool,
}

/// Continues an FNV-1a hash.
fn hash(seed: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(seed, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

const SEED: u64 = 0xcbf2_9ce4_8422_2325;

/// The data that a unit returns for `cdb`; `None` where it fails the command.
fn ask<'a, P: Platform, T: ScsiTransport, B: DmaBuffer>(
    shared: &ControllerShared<P, T, B>,
    control: &mut Control<P, T, B>,
    address: Address,
    cdb: Cdb,
    answer: &'a mut [u8],
) -> Result<Option<&'a [u8]>, Fault> {
    match shared.command(control, address, cdb, answer) {
        Ok(len) => Ok(answer.get(..len)),
        Err(CommandError::Io(_) | CommandError::Absent) => Ok(None),
        Err(CommandError::Faulted(fault)) => Err(fault),
    }
}

/// The data that a unit returns for `cdb`; `Some(None)` where it does not support the command, `None` where the command was aborted.
fn sure<'a, P: Platform, T: ScsiTransport, B: DmaBuffer>(
    shared: &ControllerShared<P, T, B>,
    control: &mut Control<P, T, B>,
    address: Address,
    cdb: Cdb,
    answer: &'a mut [u8],
) -> Result<Option<Option<&'a [u8]>>, Fault> {
    match shared.command(control, address, cdb, answer) {
        Ok(len) => Ok(Some(answer.get(..len))),
        Err(CommandError::Io(IoError::Unsupported) | CommandError::Absent) => Ok(Some(None)),
        Err(CommandError::Io(_)) => Ok(None),
        Err(CommandError::Faulted(fault)) => Err(fault),
    }
}

/// Which pages of vital product data a unit lists: some targets fail others without a word, or hang. SPC-4 §7.8.15
#[derive(Copy, Clone, Default)]
struct Listed {
    name: bool,
    serial: bool,
    limits: bool,
    provisioning: bool,
}

/// The pages that the unit lists; `None` where it did not answer.
fn list<P: Platform, T: ScsiTransport, B: DmaBuffer>(
    shared: &ControllerShared<P, T, B>,
    control: &mut Control<P, T, B>,
    address: Address,
) -> Result<Option<Listed>, Fault> {
    let mut bytes = [0; 255];
    let answer = sure(shared, control, address, Cdb::vpd(page::SUPPORTED, 255), &mut bytes)?;
    Ok(answer.map(|bytes| {
        let list = bytes.and_then(|bytes| data::vpd_body(bytes, page::SUPPORTED)).unwrap_or_default();
        let has = |page| list.contains(&page);
        Listed {
            name: has(page::IDENTIFICATION),
            serial: has(page::SERIAL),
            limits: has(page::BLOCK_LIMITS),
            provisioning: has(page::PROVISIONING),
        }
    }))
}

/// A unit at an address.
pub(crate) struct Found {
    pub peripheral: Peripheral,
    /// Its worldwide name, in hexadecimal digits.
    name: Serial,
    /// A hash of vendor, product, revision and name.
    pub hash: u64,
    /// The same without the name.
    pub anonymous: u64,
    /// The unit answered every question, be it by refusing it.
    pub is_certain: bool,
    /// `None` where it did not answer which pages it has.
    listed: Option<Listed>,
}

/// The unit at `address`, and its name; `None` where a command was aborted. INQUIRY, SPC-4 §6.6
pub(crate) fn look<P: Platform, T: ScsiTransport, B: DmaBuffer>(
    shared: &ControllerShared<P, T, B>,
    control: &mut Control<P, T, B>,
    address: Address,
) -> Result<Option<Found>, Fault> {
    let mut bytes = [0; 36];
    let Some(inquiry) = sure(shared, control, address, Cdb::inquiry(36), &mut bytes)? else {
        return Ok(None);
    };
    let peripheral = inquiry.and_then(data::peripheral).unwrap_or(Peripheral::None);
    let anonymous = hash(SEED, inquiry.and_then(|bytes| bytes.get(8..)).unwrap_or_default());
    let name = Serial::default();
    let mut found = Found { peripheral, name, hash: anonymous, anonymous, is_certain: true, listed: None };
    if peripheral != Peripheral::None {
        // What fails is not known, and nothing else.
        let mut bytes = [0; 255];
        found.listed = list(shared, control, address)?;
        let page = match found.listed.map(|listed| listed.name) {
            Some(true) => sure(shared, control, address, Cdb::vpd(page::IDENTIFICATION, 255), &mut bytes)?,
            Some(false) => Some(None),
            None => None,
        };
        found.is_certain = page.is_some();
        let name = page.flatten().and_then(data::name).unwrap_or_default();
        found.hash = hash(found.hash, name);
        let mut digits = [0u8; 32];
        for (to, byte) in digits.chunks_exact_mut(2).zip(name) {
            let digits = [byte >> 4, byte & 15]
                .map(|digit| b"0123456789abcdef".get(usize::from(digit)).copied().unwrap_or(0));
            to.copy_from_slice(&digits);
        }
        found.name = Serial::new(&digits);
    }
    Ok(Some(found))
}

/// The capacity of a unit; `None` where it reports none, as without a medium. READ CAPACITY, SBC-3 §5.15, §5.16
pub(crate) fn capacity<P: Platform, T: ScsiTransport, B: DmaBuffer>(
    shared: &ControllerShared<P, T, B>,
    control: &mut Control<P, T, B>,
    address: Address,
    is_optical: bool,
) -> Result<Option<Capacity>, Fault> {
    if !is_optical {
        let mut bytes = [0; 32];
        let answer = ask(shared, control, address, Cdb::read_capacity_16(32), &mut bytes)?;
        if let Some(capacity) = answer.and_then(data::capacity_16) {
            return Ok(Some(capacity));
        }
    }
    let mut bytes = [0; 8];
    Ok(ask(shared, control, address, Cdb::read_capacity_10(), &mut bytes)?.and_then(data::capacity_10))
}

/// Write protection, FUA and write cache of a unit. MODE SENSE (6), SPC-4 §6.11
pub(crate) fn mode<P: Platform, T: ScsiTransport, B: DmaBuffer>(
    shared: &ControllerShared<P, T, B>,
    control: &mut Control<P, T, B>,
    address: Address,
) -> Result<Option<data::Mode>, Fault> {
    let mut bytes = [0; 64];
    let cdb = Cdb::mode_sense(data::CACHING_PAGE, 64);
    Ok(ask(shared, control, address, cdb, &mut bytes)?.and_then(data::mode))
}

/// Why a unit that the host reports is not a disk for this crate.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Ignored {
    /// It is neither a disk nor an optical drive: its peripheral device type. SPC-4 §6.6.2
    Peripheral(u8),
    /// It reports no capacity.
    NoCapacity,
    /// Its blocks have an unsupported size, in bytes.
    BlockSize(u32),
    /// It did not answer in time; it is looked at again by the next scan.
    Silent,
    /// The controller has more units than the driver can manage (64).
    TooMany,
    /// The host lists it, but there is no unit at its address.
    Absent,
}

impl fmt::Display for Ignored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Peripheral(kind) => write!(f, "peripheral type {kind:#x} is not supported"),
            Self::NoCapacity => f.write_str("it reports no capacity"),
            Self::BlockSize(size) => write!(f, "blocks of {size} bytes are not supported"),
            Self::Silent => f.write_str("it does not answer"),
            Self::TooMany => f.write_str("the controller has more than 64 units"),
            Self::Absent => f.write_str("there is no unit"),
        }
    }
}

/// Identifies a disk or an optical drive; or why the unit is neither, or is not supported.
pub(crate) fn identify<P: Platform, T: ScsiTransport, B: DmaBuffer>(
    shared: &ControllerShared<P, T, B>,
    control: &mut Control<P, T, B>,
    address: Address,
    depth: u16,
) -> Result<Result<Identity, Ignored>, Fault> {
    let Some(found) = look(shared, control, address)? else { return Ok(Err(Ignored::Silent)) };
    let is_optical = match found.peripheral {
        Peripheral::Disk => false,
        Peripheral::Optical => true,
        Peripheral::None => return Ok(Err(Ignored::Absent)),
        Peripheral::Other(kind) => return Ok(Err(Ignored::Peripheral(kind))),
    };
    // Clears pending unit attentions. Whether the unit is ready shows by its capacity.
    for _ in 0..READY_TRIES {
        if ask(shared, control, address, Cdb::test_unit_ready(), &mut [])?.is_some() {
            break;
        }
    }
    let capacity = match capacity(shared, control, address, is_optical)? {
        Some(capacity) => capacity,
        None if is_optical => {
            // A drive without a medium is a device of no blocks.
            Capacity {
                blocks: 0,
                block_size: 2048,
                physical_exponent: 0,
                lowest_aligned: 0,
                reads_zeroes: false,
            }
        }
        None => return Ok(Err(Ignored::NoCapacity)),
    };
    if !capacity.block_size.is_power_of_two() || !BLOCK_SIZES.contains(&capacity.block_size) {
        return Ok(Err(Ignored::BlockSize(capacity.block_size)));
    }
    let mode = if is_optical { None } else { mode(shared, control, address)? };
    let listed = match found.listed {
        Some(listed) => listed,
        None => list(shared, control, address)?.unwrap_or_default(),
    };
    let Pages { serial, limits, provisioning } = pages(shared, control, address, listed)?;
    let is_read_only = is_optical || mode.is_some_and(|mode| mode.is_protected);
    let blocks = |bytes: u32| bytes.checked_div(capacity.block_size).unwrap_or(0);
    let most = match limits.max_transfer {
        0 => blocks(shared.limits.max_bytes),
        most => most.min(blocks(shared.limits.max_bytes)),
    };
    let max_bytes = most.max(1).saturating_mul(capacity.block_size);
    let discard = (provisioning.unmaps && limits.max_unmap > 0 && !is_optical)
        .then(|| DiscardLimits::new(limits.max_unmap).with_alignment(limits.unmap_granularity.max(1)));
    let knows_write_same = !is_optical
        && (limits.max_write_same > 0 || shared.knows_write_same(control, address, capacity.block_size)?);
    // Blocks that WRITE SAME unmaps read as the block that came with it: zeroes, whatever LBPRZ says.
    let write_zeroes = knows_write_same.then(|| {
        let max_blocks = match u32::try_from(limits.max_write_same) {
            Ok(0) => WRITE_SAME_BLOCKS,
            Ok(most) => most,
            Err(_) => u32::MAX,
        };
        ZeroLimits::new(max_blocks).with_unmap(match provisioning.write_same_unmaps {
            true => Unmap::May,
            false => Unmap::Keep,
        })
    });
    let has_cache = !is_optical && mode.and_then(|mode| mode.has_cache).unwrap_or(true);
    let mut info = BlockInfo::new(capacity.blocks, capacity.block_size);
    info.physical_block_size = capacity
        .block_size
        .checked_shl(u32::from(capacity.physical_exponent))
        .unwrap_or(0)
        .max(capacity.block_size);
    info.alignment_offset = u32::from(capacity.lowest_aligned);
    info.optimal_blocks = limits.optimal_transfer;
    info.max_bytes = max_bytes;
    info.max_segments = shared.limits.max_segments;
    info.max_segment_bytes = max_bytes;
    info.segment_boundary = shared.limits.boundary;
    info.connection = shared.limits.connection;
    info.alignment = 4;
    info.discard = discard;
    info.write_zeroes = write_zeroes;
    info.cache = if has_cache { Cache::WriteBack } else { Cache::WriteThrough };
    info.access = if is_read_only { Access::ReadOnly } else { Access::ReadWrite };
    info.serial = serial.unwrap_or(found.name);
    info.queues = u16::try_from(shared.ports.len()).unwrap_or(1);
    info.depth = depth;
    let has_fua = mode.is_some_and(|mode| mode.has_fua);
    Ok(Ok(Identity { info, has_fua, is_optical, hash: found.hash, is_certain: found.is_certain }))
}

/// Vital product data other than the name.
#[derive(Default)]
struct Pages {
    serial: Option<Serial>,
    limits: BlockLimits,
    provisioning: Provisioning,
}

/// Reads those pages that the unit lists. SPC-4 §7.8
fn pages<P: Platform, T: ScsiTransport, B: DmaBuffer>(
    shared: &ControllerShared<P, T, B>,
    control: &mut Control<P, T, B>,
    address: Address,
    listed: Listed,
) -> Result<Pages, Fault> {
    let mut found = Pages::default();
    let wanted = [
        (page::SERIAL, listed.serial),
        (page::BLOCK_LIMITS, listed.limits),
        (page::PROVISIONING, listed.provisioning),
    ];
    for (page, _) in wanted.into_iter().filter(|(_, is_listed)| *is_listed) {
        let mut bytes = [0; 255];
        let Some(bytes) = ask(shared, control, address, Cdb::vpd(page, 255), &mut bytes)? else { continue };
        match page {
            page::SERIAL => found.serial = data::serial(bytes).filter(|serial| !serial.as_bytes().is_empty()),
            page::BLOCK_LIMITS => found.limits = data::block_limits(bytes).unwrap_or_default(),
            _ => found.provisioning = data::provisioning(bytes).unwrap_or_default(),
        }
    }
    Ok(found)
}
