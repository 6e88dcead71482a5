#!/bin/sh
# The life of a snapshot through `wsl`, Debian's WS-Management client: shell scripts over curl that read answers line by
# line and paste what they cut out of one into the next request.
# After taking the snapshot it waits for a line on its standard input.
# Usage: wsl.sh DIRECTORY MACHINE HOST:PORT, with WSUSER, WSPASS and, for http, WSNOSSL in the environment. For https the
# server's certificate is checked against DIRECTORY/HOST:PORT.crt, which is where wsl looks for it.
set -eu
cd "$1"
machine=$2
# Its configuration file would be made in the home directory.
HOME=$1
WSENDPOINT=$3
OUTLEVEL=1
KEEPHISTORY=0
export HOME WSENDPOINT OUTLEVEL KEEPHISTORY
cmd() { "$@" </dev/null; }

base=http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2
wql=http://schemas.microsoft.com/wbem/wsman/1/WQL
service=$base/Msvm_VirtualSystemSnapshotService

fail() {
    echo "wsl: $*" >&2
    cat log.txt response-*.xml >&2
    exit 1
}

# What an XPath finds in a file; names are compared without prefixes.
find_text() { xmllint --xpath "string($2)" "$1"; }

# The EPR of the one row of a query, kept in a file.
epr_of() {
    rm -f response-*.xml
    cmd wslenum "$base/*" -mode epr -dialect "$wql" -filter "$1" >/dev/null || fail "enumerating: $1"
    found=$(grep -l ':EndpointReference' response-*.xml) || fail "nothing found: $1"
    [ "$(echo "$found" | wc -l)" = 1 ] || fail "not one: $1"
    cp "$found" "$2"
}

# Follows the job of the last answer; its EPR is in job.
follow() {
    code=$(find_text response.xml '//*[local-name()="ReturnValue"]')
    [ "$code" = 4096 ] || fail "return value $code"
    job=$(find_text response.xml '//*[local-name()="Job"]//*[@Name="InstanceID"]')
    while cmd wslget "$base/Msvm_ConcreteJob" "InstanceID=$job" >/dev/null || fail "reading job $job"; do
        state=$(find_text response.xml '//*[local-name()="JobState"]')
        case $state in
        3 | 4) ;;
        7) return ;;
        *) fail "job ended in state $state" ;;
        esac
    done
}

call() {
    cmd wslinvoke "$@" >/dev/null || fail "invoking $*"
}

cmd wslid check >/dev/null || fail identify
[ -n "$(find_text response.xml '//*[local-name()="ProductVendor"]')" ] || fail "no vendor"

epr_of "SELECT * FROM Msvm_VirtualSystemSnapshotService" service.xml
epr_of "SELECT * FROM Msvm_ComputerSystem WHERE ElementName='$machine'" machine.xml

call "$service" CreateSnapshot -inst service.xml AffectedSystem=FILE:machine.xml SnapshotSettings= SnapshotType=2
follow
created=$job

# From the job to the snapshot: wsl's -references asks for associated instances, and prints each answer.
rm -f response-*.xml
cmd wslenum "$base/Msvm_ConcreteJob" "InstanceID=$created" -references -mode epr >/dev/null || fail associations
found=$(grep -l 'Msvm_VirtualSystemSettingData' response-*.xml) || fail "the job has no snapshot"
cp "$found" snapshot.xml
echo "created $(find_text snapshot.xml '//*[@Name="InstanceID"]')"
read -r _

call "$service" ApplySnapshot -inst service.xml Snapshot=FILE:snapshot.xml
code=$(find_text response.xml '//*[local-name()="ReturnValue"]')
[ "$code" = 32775 ] || fail "a running machine refuses: $code"
call "$base/Msvm_ComputerSystem" RequestStateChange -inst machine.xml RequestedState=3
follow
call "$service" ApplySnapshot -inst service.xml Snapshot=FILE:snapshot.xml
follow
call "$base/Msvm_ComputerSystem" RequestStateChange -inst machine.xml RequestedState=2
follow
call "$service" DestroySnapshot -inst service.xml AffectedSnapshot=FILE:snapshot.xml
follow
echo "done"
