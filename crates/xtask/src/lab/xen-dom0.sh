#!/bin/sh
# Init of Xen's first domain: starts xenstored and what xl needs, serves files on a bridge, runs the test, and ends the machine.
export HOME=/root
PATH=/bin
for folder in /usr/lib/xen-*/bin; do PATH=$PATH:$folder; done
export PATH
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm /run/xen /run/xenstored /run/lock
mount -t devpts devpts /dev/pts
while read -r name; do
    # As many queues as a guest asks for, though this domain has one processor.
    case $name in xen_*back) words=max_queues=4 ;; *) words= ;; esac
    insmod "/modules/$name.ko" $words
done < /modules/order
ifconfig lo 127.0.0.1
mount -t xenfs xenfs /proc/xen
xenstored --pid-file /run/xenstored.pid
usleep 300000
xen-init-dom0 > /dev/null
xenconsoled --log=all --pid-file /run/xenconsoled.pid --log-dir=/var/log/xen
brctl addbr bridge
ifconfig bridge 10.9.0.1 netmask 255.255.255.0 up
httpd -p 10.9.0.1:80 -h /root
echo "dom0: ready after $(cut -d' ' -f1 /proc/uptime) s"
. /root/guest.sh
. /root/test.sh
echo "dom0: done after $(cut -d' ' -f1 /proc/uptime) s"
echo exit=0
sleep 1
# QEMU ends when this port is written.
printf '\0' | dd of=/dev/port bs=1 seek=244 2> /dev/null
poweroff -f
