"""What Microsoft's own sample does, through WS-Management clients that nobody here wrote.

Finds the service and the machine by name, takes a snapshot with type 2 and an empty settings string, follows the job,
finds the snapshot through the job; then applies it, starts the machine and destroys the snapshot.
After taking the snapshot it waits for a line on its standard input.
Usage: life.py MACHINE LIBRARY AUTH URL [USER PASSWORD [AUTHORITIES]], see connections.py
"""
import sys
import time
import xml.etree.ElementTree as ET

import connections

BASE = "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/"
WQL = "http://schemas.microsoft.com/wbem/wsman/1/WQL"
N = {
    "s": "http://www.w3.org/2003/05/soap-envelope",
    "n": "http://schemas.xmlsoap.org/ws/2004/09/enumeration",
    "w": "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd",
    "a": "http://schemas.xmlsoap.org/ws/2004/08/addressing",
}


def local(element):
    return element.tag.rsplit("}", 1)[-1]


def properties(instance):
    found = {}
    for child in instance:
        found.setdefault(local(child), []).append(child)
    return found


def text(instance, name):
    values = properties(instance).get(name)
    return values[0].text if values else None


def query(wsman, wql):
    body = ET.Element("{%s}Enumerate" % N["n"])
    filter_ = ET.SubElement(body, "{%s}Filter" % N["w"], {"Dialect": WQL})
    filter_.text = wql
    answer = wsman.send(N["n"] + "/Enumerate", BASE + "*", body)
    found = []
    context = answer.find(".//n:EnumerationContext", N)
    while True:
        pull = ET.Element("{%s}Pull" % N["n"])
        ET.SubElement(pull, "{%s}EnumerationContext" % N["n"]).text = context.text
        ET.SubElement(pull, "{%s}MaxElements" % N["n"]).text = "50"
        answer = wsman.send(N["n"] + "/Pull", BASE + "*", pull)
        items = answer.find(".//n:Items", N)
        found += list(items) if items is not None else []
        if answer.find(".//n:EndOfSequence", N) is not None:
            return found
        context = answer.find(".//n:EnumerationContext", N)


def reference(parent, namespace, name, class_name, keys):
    element = ET.SubElement(parent, "{%s}%s" % (namespace, name))
    ET.SubElement(element, "{%s}Address" % N["a"]).text = "http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous"
    parameters = ET.SubElement(element, "{%s}ReferenceParameters" % N["a"])
    ET.SubElement(parameters, "{%s}ResourceURI" % N["w"]).text = BASE + class_name
    selectors = ET.SubElement(parameters, "{%s}SelectorSet" % N["w"])
    for key, value in keys.items():
        ET.SubElement(selectors, "{%s}Selector" % N["w"], {"Name": key}).text = value


def invoke(wsman, class_name, keys, method, fill):
    uri = BASE + class_name
    body = ET.Element("{%s}%s_INPUT" % (uri, method))
    fill(body, uri)
    answer = wsman.send(uri + "/" + method, uri, body, keys)
    result = answer if local(answer).endswith("_OUTPUT") else answer.find(".//{%s}%s_OUTPUT" % (uri, method))
    code = int(text(result, "ReturnValue"))
    job = properties(result).get("Job")
    return code, job[0].find(".//w:Selector[@Name='InstanceID']", N).text if job else None


def follow(wsman, job):
    seen = set()
    while True:
        found = query(wsman, "SELECT * FROM Msvm_ConcreteJob WHERE InstanceID = '%s'" % job)
        assert len(found) == 1, "the job is there"
        state = int(text(found[0], "JobState"))
        seen.add(state)
        if state not in (3, 4):
            assert state == 7, "job ended in %d: %s" % (state, text(found[0], "ErrorDescription"))
            assert text(found[0], "PercentComplete") == "100" and text(found[0], "ErrorCode") == "0"
            assert seen <= {4, 7}, seen
            return
        time.sleep(0.1)


def state_of(wsman, machine):
    found = query(wsman, "SELECT * FROM Msvm_ComputerSystem WHERE Name = '%s'" % machine)
    return int(text(found[0], "EnabledState"))


def main():
    name = sys.argv[1]
    wsman = connections.connect(*sys.argv[2:])
    services = query(wsman, "SELECT * FROM Msvm_VirtualSystemSnapshotService")
    assert len(services) == 1
    service = {key: text(services[0], key) for key in ("CreationClassName", "Name", "SystemCreationClassName", "SystemName")}
    machines = query(wsman, "SELECT * FROM Msvm_ComputerSystem WHERE ElementName = '%s'" % name)
    assert len(machines) == 1
    machine = text(machines[0], "Name")
    system = {"CreationClassName": "Msvm_ComputerSystem", "Name": machine}

    def create(body, uri):
        reference(body, uri, "AffectedSystem", "Msvm_ComputerSystem", system)
        ET.SubElement(body, "{%s}SnapshotSettings" % uri).text = ""
        ET.SubElement(body, "{%s}SnapshotType" % uri).text = "2"

    code, job = invoke(wsman, "Msvm_VirtualSystemSnapshotService", service, "CreateSnapshot", create)
    assert code == 4096 and job, (code, job)
    follow(wsman, job)
    found = query(
        wsman, "ASSOCIATORS OF {Msvm_ConcreteJob.InstanceID='%s'} WHERE ResultClass = Msvm_VirtualSystemSettingData" % job
    )
    assert len(found) == 1, "exactly one setting data belongs to the job"
    snapshot = {"InstanceID": text(found[0], "InstanceID")}
    assert text(found[0], "VirtualSystemType") == "Microsoft:Hyper-V:Snapshot:Realized"
    assert text(found[0], "IsSaved") == "true" and text(found[0], "VirtualSystemIdentifier") == machine
    print("created", snapshot["InstanceID"], flush=True)
    sys.stdin.readline()

    def snapshot_argument(parameter):
        return lambda body, uri: reference(body, uri, parameter, "Msvm_VirtualSystemSettingData", snapshot)

    code, _ = invoke(wsman, "Msvm_VirtualSystemSnapshotService", service, "ApplySnapshot", snapshot_argument("Snapshot"))
    assert code == 32775, "a running machine refuses: %d" % code

    def power(state):
        def fill(body, uri):
            ET.SubElement(body, "{%s}RequestedState" % uri).text = str(state)

        code, job = invoke(wsman, "Msvm_ComputerSystem", system, "RequestStateChange", fill)
        assert code == 4096, code
        follow(wsman, job)

    power(3)
    assert state_of(wsman, machine) == 3
    code, job = invoke(wsman, "Msvm_VirtualSystemSnapshotService", service, "ApplySnapshot", snapshot_argument("Snapshot"))
    assert code == 4096, code
    follow(wsman, job)
    assert state_of(wsman, machine) == 6, "saved, to be started by the client"
    power(2)
    assert state_of(wsman, machine) == 2
    code, job = invoke(
        wsman, "Msvm_VirtualSystemSnapshotService", service, "DestroySnapshot", snapshot_argument("AffectedSnapshot")
    )
    assert code == 4096, code
    follow(wsman, job)
    left = query(
        wsman,
        "ASSOCIATORS OF {Msvm_ComputerSystem.CreationClassName='Msvm_ComputerSystem',Name='%s'} "
        "WHERE AssocClass = Msvm_SnapshotOfVirtualSystem" % machine,
    )
    assert left == []
    print("done")


main()
