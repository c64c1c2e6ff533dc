# What scripts in Xen's first domain do with guests.

# Writes the configuration of guest $1 and starts it: processors $2, command line $3, disks $4, cards $5. With kind=hvm it is one with a BIOS,
# which boots its first disk and has no command line, and whose serial port is what it prints to; `more` are further lines.
configure() {
    cat > "/root/$1.cfg" << END
name = "$1"
memory = ${memory:-256}
vcpus = $2
tsc_mode = "native"
disk = [$4]
vif = [$5]
on_poweroff = "preserve"
on_reboot = "preserve"
on_crash = "preserve"
device_model_override = "/usr/libexec/xen-qemu-system-i386"
$more
END
    if [ "$kind" = hvm ]; then
        cat >> "/root/$1.cfg" << END
type = "hvm"
serial = "file:/var/log/xen/serial-$1.log"
vga = "none"
nographic = 1
usb = 0
END
    else
        cat >> "/root/$1.cfg" << END
type = "pvh"
kernel = "/root/kernel"
cmdline = "$3"
END
    fi
    xl create "/root/$1.cfg"
}

# The file with what guest $1 has printed.
output() {
    if [ "$kind" = hvm ]; then echo "/var/log/xen/serial-$1.log"; else echo "/var/log/xen/guest-$1.log"; fi
}

# Runs xl with these words. It gives up when a script of its own takes long, so it gets three tries.
persist() {
    xl "$@" || { sleep 5; xl "$@"; } || { sleep 5; xl "$@"; }
}

# Restores guest $1 from file $2, which it has to be saved in: it must have gone. What xl returns says nothing, since it may crash when it
# has done its work: the guest must be there and not paused.
restore() {
    if xl domid "$1" 2> /dev/null; then
        echo "$1: is there still"
        return 1
    fi
    for try in 1 2 3; do
        timeout 100 xl restore "$2"
        case $(xl list "$1" 2> /dev/null) in
            '' | *--p---*) xl destroy "$1" ;;
            *) return ;;
        esac
    done
    return 1
}

# Waits until guest $1 has printed $2, for $3 seconds at most.
await() {
    tries=0
    until grep -q "$2" "$(output "$1")" 2> /dev/null; do
        sleep 1
        tries=$((tries + 1))
        if [ "$tries" = "$3" ]; then
            echo "$1: has not printed $2"
            return
        fi
    done
}

# Prints what guest $1 has printed, and ends it.
finish() {
    await "$1" '^exit=' 240
    tr -d '\r' < "$(output "$1")" | sed "s/^/$1: /"
    xl destroy "$1"
}

# Prints what guest $1 prints, as it does. BusyBox's tail does not follow a file that is empty at first.
follow() {
    # The console's daemon makes the file a moment after the guest.
    until [ -e "/var/log/xen/guest-$1.log" ]; do usleep 100000; done
    end=$(printf '\r')
    part=
    while :; do
        usleep 200000
        while IFS= read -r line; do
            echo "$1: $part${line%"$end"}"
            part=
        done
        part=$part$line
    done < "/var/log/xen/guest-$1.log" &
}
