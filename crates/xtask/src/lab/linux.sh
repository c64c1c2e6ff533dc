#!/bin/sh
# Init of a Linux guest on the Hyper-V emulation: mounts a disk, reads and writes, leases an address, fetches a file, reads keyboard
# and mouse events, and waits for a shutdown request. The test compares its output with the expected values.
export PATH=/bin:/sbin HOME=/
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
while read -r name; do insmod "/modules/$name.ko"; done < /modules/order
# Waits until the command prints something, for at most 30 seconds.
await() {
    tries=0
    until [ "$($1)" ] || [ "$tries" = 300 ]; do
        sleep 0.1
        tries=$((tries + 1))
    done
}
# Prints the name of the disk at LUN $1: Linux probes disks in parallel, so that their names depend on the order in which they appear.
disk() {
    for disk in /sys/bus/scsi/devices/*:"$1"/block/*; do
        [ -b "/dev/${disk##*/}" ] && echo "/dev/${disk##*/}"
    done
}
disks() { [ "$(disk 0)" ] && [ "$(disk 1)" ] && echo there; }
card() { [ -e /sys/class/net/eth0 ] && echo there; }
clock() { [ "$(date -u +%Y)" -gt 1970 ] && echo set; }
# Prints the devices that have a subchannel.
further() { ls -d /sys/bus/vmbus/devices/*/channels/* | cut -d/ -f6 | sort | uniq -d; }
pairs() { [ "$(further | wc -l)" = 2 ] && echo there; }
await disks
await card
files=$(disk 0)
scratch=$(disk 1)
echo "linux version=$(uname -r) clock=$(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
mount -t ext4 "$files" /disk
cd /disk || exit
find . -type f | sort | while read -r file; do
    echo "linux file=${file#.} sha256=$(sha256sum < "$file" | cut -d' ' -f1)"
done
cp large.bin copy.bin
cd /
umount /disk
dd if=/dev/urandom of=/random bs=64k count=64 2> /dev/null
dd if=/random of="$scratch" bs=64k conv=fsync 2> /dev/null
echo 3 > /proc/sys/vm/drop_caches
echo "linux written=$(sha256sum < /random | cut -d' ' -f1)"
echo "linux read=$(dd if="$scratch" bs=64k count=64 2> /dev/null | sha256sum | cut -d' ' -f1)"
ip link set eth0 up
udhcpc -i eth0 -n -q -t 20 -s /lease > /dev/null 2>&1
echo "linux address=$(ip -4 addr show eth0 | sed -n 's/.*inet \([^ ]*\).*/\1/p')"
echo "linux page=$(wget -q -O - http://10.0.2.2/large.bin | sha256sum | cut -d' ' -f1)"
echo "linux answers=$(ping -c 3 10.0.2.2 | grep -c 'seq=')"
await pairs
for device in /sys/bus/vmbus/devices/*; do
    echo "linux device=$(basename "$device") driver=$(basename "$(readlink "$device/driver")") channels=$(ls "$device/channels" | wc -l)"
done
keyboard_and_mouse() { [ "$(grep -lE 'keyboard|Mouse' /sys/class/input/event*/device/name | wc -l)" = 2 ] && echo there; }
await keyboard_and_mouse
# An event has 24 bytes: a time of 16, type, code, value. Events before a device is open are lost.
for device in /dev/input/event*; do cat "$device" >> /events & done
listeners() { [ "$(ls -l /proc/[0-9]*/fd | grep -c /dev/input/event)" = "$(ls /dev/input/event* | wc -l)" ] && echo there; }
await listeners
events() { od -An -v -t u2 -w24 /events; }
# Prints the release of Escape.
escape() { events | awk '$9 == 1 && $10 == 1 && $11 == 0'; }
echo "linux=typing"
await escape
echo "linux keys=$(events | awk '$9 == 1 && $11 == 1 { printf "%s%s", comma, $10; comma = "," }')"
echo "linux places=$(events | awk '$9 == 3 && $10 < 2 { printf "%s%s", comma, $11; comma = "," }')"
# The host sets the time within seconds; until then the year is 1970.
await clock
echo "linux year=$(date -u +%Y)"
echo "linux=ready"
while :; do sleep 1; done
