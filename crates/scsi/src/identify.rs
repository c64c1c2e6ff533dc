//! Finding out what a unit is.

use crate::Cdb;
use crate::core::{CommandError, Control, Core};
use crate::data::{self, BlockLimits, Capacity, Peripheral, Provisioning, page};
use crate::port::{Adapter, Address};
use paravirt_device::{Access, BlockInfo, Cache, DiscardLimits, Fault, IoError, Serial, Unmap, ZeroLimits};
use paravirt_platform::{DmaBuffer, Platform};

/// Blocks of a WRITE SAME, where the unit does not say.
const WRITE_SAME_BLOCKS: u32 = 0x4000;
/// Tries of a TEST UNIT READY.
const READY_TRIES: usize = 3;
/// The block sizes that are driven.
const BLOCK_SIZES: core::ops::RangeInclusive<u32> = 512..=4096;

/// What a unit is.
pub(crate) struct Identity {
    pub info: BlockInfo,
    pub has_fua: bool,
    pub is_optical: bool,
    /// See [`Found::hash`].
    pub hash: u64,
}

/// FNV-1a
fn hash(seed: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(seed, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

const SEED: u64 = 0xcbf2_9ce4_8422_2325;

/// What a unit answers to one question; `None` where it does not know it.
fn ask<'a, P: Platform, A: Adapter, B: DmaBuffer>(
    core: &Core<P, A, B>,
    control: &mut Control<P, A>,
    address: Address,
    cdb: Cdb,
    answer: &'a mut [u8],
) -> Result<Option<&'a [u8]>, Fault> {
    match core.command(control, address, cdb, answer) {
        Ok(len) => Ok(answer.get(..len)),
        Err(CommandError::Io(_) | CommandError::Absent) => Ok(None),
        Err(CommandError::Faulted(fault)) => Err(fault),
    }
}

/// As [`ask`], where it matters whether the unit does not know it (`Some(None)`) or did not come to answer (`None`).
fn sure<'a, P: Platform, A: Adapter, B: DmaBuffer>(
    core: &Core<P, A, B>,
    control: &mut Control<P, A>,
    address: Address,
    cdb: Cdb,
    answer: &'a mut [u8],
) -> Result<Option<Option<&'a [u8]>>, Fault> {
    match core.command(control, address, cdb, answer) {
        Ok(len) => Ok(Some(answer.get(..len))),
        Err(CommandError::Io(IoError::Unsupported) | CommandError::Absent) => Ok(Some(None)),
        Err(CommandError::Io(_)) => Ok(None),
        Err(CommandError::Faulted(fault)) => Err(fault),
    }
}

/// What is at an address.
pub(crate) struct Found {
    pub peripheral: Peripheral,
    /// Its name in the world, in hexadecimal digits.
    name: Serial,
    /// Vendor, product, revision and name, hashed.
    pub hash: u64,
}

/// What is at `address`, and its name; `None` where that could not be found out, as the command was aborted.
pub(crate) fn look<P: Platform, A: Adapter, B: DmaBuffer>(
    core: &Core<P, A, B>,
    control: &mut Control<P, A>,
    address: Address,
) -> Result<Option<Found>, Fault> {
    let mut bytes = [0; 36];
    let Some(inquiry) = sure(core, control, address, Cdb::inquiry(36), &mut bytes)? else { return Ok(None) };
    let peripheral = inquiry.and_then(data::peripheral).unwrap_or(Peripheral::None);
    let mut found = Found { peripheral, name: Serial::default(), hash: SEED };
    found.hash = hash(found.hash, inquiry.and_then(|bytes| bytes.get(8..)).unwrap_or_default());
    if peripheral != Peripheral::None {
        let mut bytes = [0; 255];
        let cdb = Cdb::vpd(page::IDENTIFICATION, 255);
        let Some(page) = sure(core, control, address, cdb, &mut bytes)? else { return Ok(None) };
        let name = page.and_then(data::name).unwrap_or_default();
        found.hash = hash(found.hash, name);
        let mut digits = [0u8; 32];
        for (to, byte) in digits.as_chunks_mut::<2>().0.iter_mut().zip(name) {
            *to = [byte >> 4, byte & 15]
                .map(|digit| b"0123456789abcdef".get(usize::from(digit)).copied().unwrap_or(0));
        }
        found.name = Serial::new(&digits);
    }
    Ok(Some(found))
}

/// How large a unit is; `None` where it does not say, as without a medium.
pub(crate) fn capacity<P: Platform, A: Adapter, B: DmaBuffer>(
    core: &Core<P, A, B>,
    control: &mut Control<P, A>,
    address: Address,
    is_optical: bool,
) -> Result<Option<Capacity>, Fault> {
    if !is_optical {
        let mut bytes = [0; 32];
        let answer = ask(core, control, address, Cdb::read_capacity_16(32), &mut bytes)?;
        if let Some(capacity) = answer.and_then(data::capacity_16) {
            return Ok(Some(capacity));
        }
    }
    let mut bytes = [0; 8];
    Ok(ask(core, control, address, Cdb::read_capacity_10(), &mut bytes)?.and_then(data::capacity_10))
}

/// Whether a unit is protected, whether it has FUA, and a cache.
pub(crate) fn mode<P: Platform, A: Adapter, B: DmaBuffer>(
    core: &Core<P, A, B>,
    control: &mut Control<P, A>,
    address: Address,
) -> Result<Option<data::Mode>, Fault> {
    let mut bytes = [0; 64];
    let cdb = Cdb::mode_sense(data::CACHING_PAGE, 64);
    Ok(ask(core, control, address, cdb, &mut bytes)?.and_then(data::mode))
}

/// Asks a disk or drive all that has to be known of it; `None` where it is none that can be driven.
pub(crate) fn identify<P: Platform, A: Adapter, B: DmaBuffer>(
    core: &Core<P, A, B>,
    control: &mut Control<P, A>,
    address: Address,
    depth: u16,
) -> Result<Option<Identity>, Fault> {
    let Some(found) = look(core, control, address)? else { return Ok(None) };
    let is_optical = match found.peripheral {
        Peripheral::Disk => false,
        Peripheral::Optical => true,
        Peripheral::None => return Ok(None),
        Peripheral::Other(kind) => {
            log::info!("scsi: {address} is of type {kind:#x}, which is not driven");
            return Ok(None);
        }
    };
    // Takes up what the unit has to say ahead of all else; whether it is ready shows by its capacity.
    for _ in 0..READY_TRIES {
        if ask(core, control, address, Cdb::test_unit_ready(), &mut [])?.is_some() {
            break;
        }
    }
    let capacity = match capacity(core, control, address, is_optical)? {
        Some(capacity) => capacity,
        None if is_optical => {
            // A drive without a medium is a device without blocks.
            Capacity {
                blocks: 0,
                block_size: 2048,
                physical_exponent: 0,
                lowest_aligned: 0,
                reads_zeroes: false,
            }
        }
        None => {
            log::warn!("scsi: disk {address} does not say how large it is");
            return Ok(None);
        }
    };
    if !capacity.block_size.is_power_of_two() || !BLOCK_SIZES.contains(&capacity.block_size) {
        log::warn!("scsi: disk {address} has blocks of {} bytes, which is not driven", capacity.block_size);
        return Ok(None);
    }
    let mode = if is_optical { None } else { mode(core, control, address)? };
    let Pages { serial, limits, provisioning } = pages(core, control, address)?;
    let is_read_only = is_optical || mode.is_some_and(|mode| mode.is_protected);
    let blocks = |bytes: u32| bytes.checked_div(capacity.block_size).unwrap_or(0);
    let most = match limits.max_transfer {
        0 => blocks(core.limits.max_bytes),
        most => most.min(blocks(core.limits.max_bytes)),
    };
    let max_bytes = most.max(1).saturating_mul(capacity.block_size);
    let discard = (provisioning.unmaps && limits.max_unmap > 0 && !is_optical)
        .then(|| DiscardLimits { max_blocks: limits.max_unmap, alignment: limits.unmap_granularity.max(1) });
    let knows_write_same = !is_optical
        && (limits.max_write_same > 0 || core.knows_write_same(control, address, capacity.block_size)?);
    // What WRITE SAME unmaps reads as the block that came with it: zeroes, whatever LBPRZ says.
    let write_zeroes = knows_write_same.then(|| ZeroLimits {
        max_blocks: match u32::try_from(limits.max_write_same) {
            Ok(0) => WRITE_SAME_BLOCKS,
            Ok(most) => most,
            Err(_) => u32::MAX,
        },
        unmap: if provisioning.write_same_unmaps { Unmap::May } else { Unmap::Keep },
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
    info.max_segments = core.limits.max_segments;
    info.max_segment_bytes = max_bytes;
    info.segment_boundary = core.limits.boundary;
    info.alignment = 4;
    info.discard = discard;
    info.write_zeroes = write_zeroes;
    info.cache = if has_cache { Cache::WriteBack } else { Cache::WriteThrough };
    info.access = if is_read_only { Access::ReadOnly } else { Access::ReadWrite };
    info.serial = serial.unwrap_or(found.name);
    info.queues = u16::try_from(core.lanes.len()).unwrap_or(1);
    info.depth = depth;
    let has_fua = mode.is_some_and(|mode| mode.has_fua);
    Ok(Some(Identity { info, has_fua, is_optical, hash: found.hash }))
}

/// Vital product data beside the name.
#[derive(Default)]
struct Pages {
    serial: Option<Serial>,
    limits: BlockLimits,
    provisioning: Provisioning,
}

/// Asks for those pages that the unit says it has: some hosts mishandle others.
fn pages<P: Platform, A: Adapter, B: DmaBuffer>(
    core: &Core<P, A, B>,
    control: &mut Control<P, A>,
    address: Address,
) -> Result<Pages, Fault> {
    let mut list = [0; 255];
    let list = ask(core, control, address, Cdb::vpd(page::SUPPORTED, 255), &mut list)?;
    let list = list.and_then(|bytes| data::vpd_body(bytes, page::SUPPORTED)).unwrap_or_default();
    let mut found = Pages::default();
    for page in [page::SERIAL, page::BLOCK_LIMITS, page::PROVISIONING] {
        if !list.contains(&page) {
            continue;
        }
        let mut bytes = [0; 255];
        let Some(bytes) = ask(core, control, address, Cdb::vpd(page, 255), &mut bytes)? else { continue };
        match page {
            page::SERIAL => found.serial = data::serial(bytes).filter(|serial| !serial.as_bytes().is_empty()),
            page::BLOCK_LIMITS => found.limits = data::block_limits(bytes).unwrap_or_default(),
            _ => found.provisioning = data::provisioning(bytes).unwrap_or_default(),
        }
    }
    Ok(found)
}
