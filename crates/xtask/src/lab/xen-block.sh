#!/bin/sh
# xl runs this for each disk: `block add` and `block remove`, with the backend's path in XENBUS_PATH.
PATH=/bin
for folder in /usr/lib/xen-*/bin; do PATH=$PATH:$folder; done
export PATH
# Others may look for a free device at the same time.
until mkdir /run/block.lock 2> /dev/null; do usleep 10000; done
trap 'rmdir /run/block.lock' EXIT
if [ "$1" = add ]; then
    device=$(losetup -f)
    losetup "$device" "$(xenstore-read "$XENBUS_PATH/params")"
    xenstore-write "$XENBUS_PATH/node" "$device"
    xenstore-write "$XENBUS_PATH/physical-device" "$(stat -L -c %t:%T "$device")"
    xenstore-write "$XENBUS_PATH/hotplug-status" connected
elif [ "$1" = remove ]; then
    losetup -d "$(xenstore-read "$XENBUS_PATH/node")"
fi
