#!/bin/sh
# A Linux guest that measures its disk and its network card, and switches off. The kernel command line says on which bus they are
# (`bus=vmbus`, `bus=virtio`, `bus=vmware` or `bus=xen`), where an echo server is (`echo=10.0.2.2:7`) and which file to fetch
# (`http=http://10.0.2.2/file`).
export PATH=/bin:/sbin HOME=/
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for word in $(cat /proc/cmdline); do
    case $word in
        bus=*) bus=${word#bus=} ;;
        echo=*) echo=${word#echo=} ;;
        http=*) http=${word#http=} ;;
    esac
done
# Where sysfs has the name of the disk.
case $bus in
    vmbus | vmware) disks='/sys/bus/scsi/devices/*:0/block/*' ;;
    virtio) disks='/sys/bus/virtio/devices/*/block/*' ;;
    xen) disks='/sys/bus/xen/devices/vbd-*/block/*' ;;
    *)
        echo "bus=$bus is not vmbus, virtio, vmware or xen"
        poweroff -f
        ;;
esac
# The list has the modules in load order.
while read -r name; do insmod "/modules/$name.ko"; done < "/modules/$bus"
# Waits until the command says something, for half a minute at most.
await() {
    tries=0
    until [ "$($1)" ] || [ "$tries" = 3000 ]; do
        sleep 0.01
        tries=$((tries + 1))
    done
}
disk() {
    for disk in $disks; do
        [ -b "/dev/${disk##*/}" ] && echo "/dev/${disk##*/}"
    done
}
card() { [ -e /sys/class/net/eth0 ] && echo there; }
await disk
disk=$(disk)
# Neighbours stay requests of their own, as the kernel that is compared has them.
echo 2 > "/sys/block/${disk##*/}/queue/nomerges"
/linux-load bench="$disk"
await card
ip link set eth0 up
udhcpc -i eth0 -n -q -t 20 -s /lease > /dev/null 2>&1
/linux-load round-trips="$echo" http="$http"
poweroff -f
