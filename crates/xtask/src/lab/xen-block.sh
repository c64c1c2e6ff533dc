#!/bin/sh
# xl runs this for each disk: `block add` and `block remove`, with the backend's path in XENBUS_PATH.
PATH=/bin
for folder in /usr/lib/xen-*/bin; do PATH=$PATH:$folder; done
export PATH
# Others may look for a free device at the same time.
until mkdir /run/block.lock 2> /dev/null; do usleep 10000; done
trap 'rmdir /run/block.lock' EXIT
if [ "$1" = add ]; then
    file=$(xenstore-read "$XENBUS_PATH/params")
    # A device that was free can be another's a moment later: one that is still let go of.
    until device=$(losetup -f) && losetup "$device" "$file" && [ "$(cat "/sys/block/${device##*/}/size")" != 0 ]; do
        usleep 100000
    done
    xenstore-write "$XENBUS_PATH/node" "$device"
    xenstore-write "$XENBUS_PATH/physical-device" "$(stat -L -c %t:%T "$device")"
    xenstore-write "$XENBUS_PATH/hotplug-status" connected
elif [ "$1" = remove ]; then
    losetup -d "$(xenstore-read "$XENBUS_PATH/node")"
fi
