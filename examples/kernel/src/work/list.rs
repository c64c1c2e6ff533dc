//! `list`: prints every device with its properties.

use super::devices::{At, Devices};
use crate::println;
use paravirt_device::{Access, Balloon, BlockDevice, Cache, Console, Input, Link, NetDevice, Sockets, Unmap};

/// Prints every device with its properties.
pub fn list(devices: &mut Devices) {
    for (i, At { address, device }) in devices.disks.iter().enumerate() {
        let info = device.info();
        println!(
            "device=disk{i} at={address} blocks={} block_size={} physical={} offset={} optimal={} max_bytes={} \
             max_segments={} access={} cache={} serial=\"{}\" queues={} depth={} ring={} signalling={}",
            info.blocks,
            info.block_size,
            info.physical_block_size,
            info.alignment_offset,
            info.optimal_blocks,
            info.max_bytes,
            info.max_segments,
            if info.access == Access::ReadOnly { "ro" } else { "rw" },
            if info.cache == Cache::WriteBack { "write-back" } else { "write-through" },
            info.serial,
            info.queues,
            info.depth,
            info.connection.ring,
            info.connection.signalling,
        );
        if let Some(discard) = info.discard {
            println!(
                "device=disk{i} discard_max={} discard_alignment={}",
                discard.max_blocks, discard.alignment
            );
        }
        if let Some(zero) = info.write_zeroes {
            let unmap = if zero.unmap == Unmap::May { "may" } else { "keep" };
            println!("device=disk{i} zero_max={} zero_unmap={unmap}", zero.max_blocks);
        }
    }
    for (i, At { address, device }) in devices.cards.iter().enumerate() {
        let info = device.info();
        let link = if device.link() == Link::Up { "up" } else { "down" };
        println!(
            "device=net{i} at={address} mac={} mtu={} link={link} speed={} queues={} depth={} max_segmented={} ring={} signalling={} offloads={:?}",
            info.mac,
            info.mtu,
            info.speed.unwrap_or(0),
            info.queues,
            info.depth,
            info.max_segmented,
            info.connection.ring,
            info.connection.signalling,
            info.offloads.iter_names().map(|(name, _)| name).collect::<alloc::vec::Vec<_>>(),
        );
    }
    for (i, At { address, device }) in devices.consoles.iter_mut().enumerate() {
        let size = device.size().map_or((0, 0), |size| (size.columns, size.rows));
        println!("device=console{i} at={address} columns={} rows={}", size.0, size.1);
        let _ = device.write(b"paravirt console\r\n");
    }
    for (i, At { address, .. }) in devices.entropy.iter().enumerate() {
        println!("device=entropy{i} at={address}");
    }
    for (i, At { address, device }) in devices.sockets.iter().enumerate() {
        println!("device=sockets{i} at={address} capacity={}", device.capacity());
    }
    for (i, At { address, device }) in devices.inputs.iter().enumerate() {
        let info = device.info();
        println!(
            "device=input{i} at={address} keys={} buttons={} relative={} absolute={}",
            info.has_keys, info.has_buttons, info.is_relative, info.is_absolute,
        );
    }
    for (i, At { address, device }) in devices.balloons.iter().enumerate() {
        let target = device.info().target.map_or("none".into(), |target| alloc::format!("{target}"));
        println!("device=balloon{i} at={address} held={} target={target}", device.info().held);
    }
    if let Some(version) = devices.services.vmbus().map(|vmbus| vmbus.version()) {
        println!("bus=vmbus version={version}");
    }
    for At { address, device } in &devices.passthrough {
        println!("passthrough=\"{}\" at={address} driver=virtio-drivers trust=outside", device.device_type());
    }
    for At { address, device } in &devices.unclaimed {
        println!("unclaimed=\"{}\" at={address} reason=\"{}\"", device.what, device.reason);
    }
}
