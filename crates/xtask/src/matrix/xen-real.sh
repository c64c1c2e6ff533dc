# Runs in Xen's first domain: four guests, one after the other. What each prints is printed behind its name.
truncate -s 16M /root/scratch.img

files="'/root/files.img,raw,xvda,r'"
scratch="'/root/scratch.img,raw,xvdb,w'"
card="'bridge=bridge,mac=00:16:3e:00:00:01'"
network='ip=10.9.0.2/24 gw=10.9.0.1 ping http=http://10.9.0.1/large.bin'

configure usual 1 "list mount=disk0 test=disk1 $network clock timer" "$files, $scratch" "$card"
finish usual
echo "scratch: $(sha256sum < /root/scratch.img)"

configure two 2 "reconnect=2 wide-grants list queues=2 test=disk0 $network" "$scratch" "$card"
finish two

configure hot 1 idle=300 '' ''
await hot idle=begin 120
persist block-attach hot format=raw,vdev=xvdb,access=rw,target=/root/scratch.img
await hot event=read 120
persist network-attach hot bridge=bridge mac=00:16:3e:00:00:02
await hot 'event=found at=xen:vif' 120
persist block-detach hot xvdb
await hot 'event=removed at=xen:vbd' 120
persist network-detach hot 0
await hot 'event=removed at=xen:vif' 120
xl shutdown hot
finish hot

# Saved and restored while it writes and reads, twice.
configure saved 1 "list wide-grants load=90 $network" "$scratch" "$card"
await saved load=begin 120
for time in 1 2; do
    sleep 2
    timeout 100 xl save saved /root/save
    restore saved /root/save && echo && echo "saved: dom0 restored it"
    rm -f /root/save
done
finish saved
