#!/bin/sh
# xl runs this for each network card: `vif-bridge online` and `vif-bridge offline`, with the interface in vif.
PATH=/bin
for folder in /usr/lib/xen-*/bin; do PATH=$PATH:$folder; done
export PATH
case $1 in
    online | add)
        brctl addif bridge "$vif"
        ifconfig "$vif" up
        xenstore-write "$XENBUS_PATH/hotplug-status" connected
        ;;
    offline | remove)
        brctl delif bridge "$vif"
        ifconfig "$vif" down
        ;;
esac
exit 0
