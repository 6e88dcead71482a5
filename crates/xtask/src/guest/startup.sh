#!/bin/busybox sh
# The guest's only script. Without an argument it brings the machine up; with `agent` it becomes the agent.

if [ "$1" = agent ]; then
    # Bytes must pass the port as they are, and answers must not come back as requests.
    /bin/busybox stty -F /dev/ttyS1 raw -echo 115200
    exec /bin/agent </dev/ttyS1 >/dev/ttyS1
fi

/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t tmpfs tmp /tmp
/bin/busybox --install -s /bin
for module in /modules/*; do
    insmod "$module" || echo "startup: cannot load $module"
done
# A machine may lack one of the disks; the agent then says so when it is asked for it.
for disk in 0:guest-system 1:guest-data; do
    device=$(findfs "LABEL=${disk#*:}") && mount -t ext4 -o noatime "$device" "/disk${disk%%:*}"
done
ip link set lo up
