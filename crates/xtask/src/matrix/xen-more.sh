# Runs in Xen's first domain: a guest with a BIOS, guests with several cards and disks that QEMU serves, and backends that keep pages mapped
# or offer little. What each guest prints is printed behind its name.
truncate -s 16M /root/scratch.img
truncate -s 5G /root/large.img

card="'bridge=bridge,mac=00:16:3e:00:00:01'"
other="'bridge=bridge,mac=00:16:3e:00:00:02'"
scratch="'/root/scratch.img,raw,xvdc,w'"
network='ip=10.9.0.2/24 gw=10.9.0.1 ping http=http://10.9.0.1/large.bin'

# Hyper-V's interface is beside Xen's, and what it boots from, the second disk and the card are there as emulated devices, too. The device
# model emulates no disk beyond the fourth, which alone can be read-only.
kind=hvm
more='viridian = 1'
configure bios 1 '' "'/root/boot.img,raw,hda,w', $scratch, '/root/files.img,raw,xvde,r'" "$card"
finish bios
kind=
more=
echo "scratch: $(sha256sum < /root/scratch.img)"

# QEMU serves the disks, and a card filters.
served="'backendtype=qdisk,format=raw,vdev=xvdc,access=rw,target=/root/scratch.img'"
large="'backendtype=qdisk,format=raw,vdev=xvdd,access=rw,target=/root/large.img'"
configure qemu 2 "list filter queues=2 test=disk1 stride=256M nic=net1 $network" "$served, $large" "$card, $other"
await qemu '^exit=' 240
xenstore-ls -f /local/domain | grep request-multicast-control | sed 's/^/qemu: dom0 /'
finish qemu

# The backend keeps the pages of the disk mapped. There are two drives, one without a disc, which Linux' backend does not serve.
drives="'/root/files.img,raw,xvdd,cdrom', ',empty,xvde,cdrom'"
configure kept 1 'list persistent-grants test=disk0 mount=disk1' "$scratch, $drives" ''
await kept '^exit=' 240
dmesg | grep 'persistent grants' | sed 's/^/kept: dom0 /'
finish kept

# As many queues as processors, and as many devices as share the grants; everything is closed and opened again.
files="'/root/files.img,raw,xvdd,r', '/root/files.img,raw,xvde,r', '/root/files.img,raw,xvdf,r'"
third="'bridge=bridge,mac=00:16:3e:00:00:03'"
configure many 4 "reconnect=2 list test=disk0 mount=disk2 nic=net2 $network" "$scratch, $files" "$card, $other, $third"
finish many

# No persistent grants, one queue, one event channel for both directions.
echo N > /sys/module/xen_blkback/parameters/feature_persistent
echo 1 > /sys/module/xen_blkback/parameters/max_queues
echo 1 > /sys/module/xen_netback/parameters/max_queues
echo N > /sys/module/xen_netback/parameters/separate_tx_rx_irq
configure plain 2 "two-level list queues=2 persistent-grants test=disk1 stride=256M $network" "$scratch, '/root/large.img,raw,xvdd,w'" "$card"
await plain '^exit=' 240
xenstore-ls -f /local/domain | grep 'device/vif/0/event-channel' | sed 's/^/plain: dom0 /'
finish plain

# The host takes memory and gives it back, and hears of a crash.
configure small 1 balloon=30 '' ''
await small balloon=begin 60
xl mem-set small 200
await small 'balloon=0 held=14336 ' 20
xl mem-set small 256
await small 'balloon=0 held=0 ' 20
finish small
configure crashed 1 crash '' ''
tries=0
until xl list crashed | grep -q -- '-sc-' || [ "$tries" = 30 ]; do
    sleep 1
    tries=$((tries + 1))
done
xl list crashed | sed 's/^/crashed: dom0 /'
