"""The life of a snapshot through os-win, OpenStack's library for Hyper-V, on the stand-in for WMI beside this file.

After taking the snapshot it waits for a line on its standard input. os-win does not apply snapshots; that call is made
in its manner, with its own following of jobs.
Usage: oswin.py MACHINE LIBRARY AUTH URL [USER PASSWORD [AUTHORITIES]], see connections.py
"""
import sys
import types
import warnings

warnings.simplefilter("ignore")

from os_win import constants, exceptions
from os_win.utils import baseutils
from os_win.utils.compute import vmutils

import connections
import wmi

# os-win looks for its WMI on Windows only; elsewhere its exceptions are its own.
wmi.x_wmi = exceptions.x_wmi
baseutils.wmi = wmi
baseutils.sys = types.SimpleNamespace(platform="win32")


def main():
    machine = sys.argv[1]
    wmi.connection = connections.connect(*sys.argv[2:])
    utils = vmutils.VMUtils()
    assert machine in utils.list_instances() and utils.vm_exists(machine)
    assert utils.get_vm_state(machine) == constants.HYPERV_VM_STATE_ENABLED
    assert utils.get_vm_snapshots(machine) == []

    snapshot = utils.take_vm_snapshot(machine, "named by os-win")
    assert utils.get_vm_snapshots(machine, "named by os-win") == [snapshot]
    print("created", snapshot, flush=True)
    sys.stdin.readline()

    utils.set_vm_state(machine, constants.HYPERV_VM_STATE_DISABLED)
    assert utils.get_vm_state(machine) == constants.HYPERV_VM_STATE_DISABLED
    service = utils._conn.Msvm_VirtualSystemSnapshotService()[0]
    job, code = service.ApplySnapshot(snapshot)
    utils._jobutils.check_ret_val(code, job)
    assert utils.get_vm_state(machine) == constants.HYPERV_VM_STATE_SUSPENDED
    utils.set_vm_state(machine, constants.HYPERV_VM_STATE_ENABLED)
    assert utils.get_vm_state(machine) == constants.HYPERV_VM_STATE_ENABLED
    utils.remove_vm_snapshot(snapshot)
    assert utils.get_vm_snapshots(machine) == []
    print("done")


main()
