#!/bin/sh
# Init of the outer machine: loads KVM, mounts the shared folder at the same path as on the host, runs the script in it, and prints
# its exit code.
export PATH=/bin:/usr/bin HOME=/
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mkdir -p /dev/shm
mount -t tmpfs shm /dev/shm
while read -r name; do insmod "/modules/$name.ko"; done < /modules/order
ifconfig lo 127.0.0.1 up
share=
for word in $(cat /proc/cmdline); do
    case $word in lab.share=*) share=${word#lab.share=} ;; esac
done
mkdir -p "$share"
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000 share "$share"
code=127
if [ -e /dev/kvm ] && [ -e "$share/run.sh" ]; then
    cd "$share"
    sh ./run.sh
    code=$?
else
    echo "lab: /dev/kvm or the shared script is missing"
fi
echo "lab: ended with $code"
poweroff -f
