"""A stand-in for PyMI's `wmi` over WS-Management, with as much of it as os-win's snapshot functions use.

os-win asks local WMI, which only Windows has. This module has the same surface and asks over the wire: queries become
enumerations of objects and their references, calls become invocations. As in WMI a call's arguments and results stand in
the order of their names, and types are those of the class's declaration, which is asked for as well.
"""
import re
import xml.etree.ElementTree as ET

ENUMERATION = "http://schemas.xmlsoap.org/ws/2004/09/enumeration"
ADDRESSING = "http://schemas.xmlsoap.org/ws/2004/08/addressing"
WSMAN = "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"
TRANSFER = "http://schemas.xmlsoap.org/ws/2004/09/transfer"
WMI_URI = "http://schemas.microsoft.com/wbem/wsman/1/wmi/"
CLASS_URI = "http://schemas.dmtf.org/wbem/cim-xml/2/cim-schema/2/"
WQL = "http://schemas.microsoft.com/wbem/wsman/1/WQL"
NIL = "{http://www.w3.org/2001/XMLSchema-instance}nil"

# Set by whoever uses this: see connections.py.
connection = None


class x_wmi(Exception):
    def __init__(self, info="", com_error=None):
        super().__init__(info)
        self.info, self.com_error = info, com_error


class x_wmi_timed_out(x_wmi):
    pass


def WMI(moniker="root/cimv2", **_):
    """A namespace, or the object that a full path names."""
    text = moniker.replace("\\", "/")
    text = re.sub(r"^(winmgmts:)?//[^/]+/", "", text)
    namespace, _, path = text.partition(":")
    if not path:
        return Namespace(namespace)
    name, keys = parse(path)
    where = " AND ".join("%s = '%s'" % pair for pair in keys.items())
    found = Namespace(namespace).query("SELECT * FROM %s WHERE %s" % (name, where))
    if not found:
        raise x_wmi("not found: " + moniker)
    return found[0]


def parse(path):
    """Class and keys of `Class.Key="value",...`."""
    name, _, rest = path.partition(".")
    return name, dict(re.findall(r'(\w+)="([^"]*)"', rest))


def local(element):
    return element.tag.rsplit("}", 1)[-1]


class Namespace:
    def __init__(self, name):
        self._name, self._classes = name, {}

    def __getattr__(self, name):
        def select(fields=None, **where):
            wql = "SELECT %s FROM %s" % (", ".join(fields) if fields else "*", name)
            if where:
                wql += " WHERE " + " AND ".join("%s = '%s'" % pair for pair in where.items())
            # A projection has no reference in it; whole objects have every field asked for.
            return self.query(wql.replace(", ".join(fields), "*", 1) if fields else wql)

        return select

    def query(self, wql):
        uri = WMI_URI + self._name + "/*"
        body = ET.Element("{%s}Enumerate" % ENUMERATION)
        ET.SubElement(body, "{%s}EnumerationMode" % WSMAN).text = "EnumerateObjectAndEPR"
        ET.SubElement(body, "{%s}Filter" % WSMAN, {"Dialect": WQL}).text = wql
        answer, found = connection.send(ENUMERATION + "/Enumerate", uri, body), []
        while answer.find(".//{%s}EndOfSequence" % ENUMERATION) is None:
            context = answer.find(".//{%s}EnumerationContext" % ENUMERATION).text
            body = ET.Element("{%s}Pull" % ENUMERATION)
            ET.SubElement(body, "{%s}EnumerationContext" % ENUMERATION).text = context
            ET.SubElement(body, "{%s}MaxElements" % ENUMERATION).text = "20"
            answer = connection.send(ENUMERATION + "/Pull", uri, body)
            found += [Instance(self, *item) for item in answer.iter("{%s}Item" % WSMAN)]
        return found

    def declaration(self, name):
        """The class as CIM-XML, read once."""
        if name not in self._classes:
            keys = {"__cimnamespace": self._name}
            answer = connection.send(TRANSFER + "/Get", CLASS_URI + name, None, keys)
            self._classes[name] = next(element for element in answer.iter() if local(element) == "CLASS")
        return self._classes[name]


class Instance:
    def __init__(self, namespace, element, reference):
        keys = {s.get("Name"): s.text for s in reference.iter("{%s}Selector" % WSMAN)}
        keys.pop("__cimnamespace", None)
        set_ = super().__setattr__
        set_("_namespace", namespace)
        set_("_class", local(element))
        set_("_keys", keys)
        set_("_types", {p.get("NAME"): p for p in members(namespace.declaration(local(element)), "PROPERTY")})
        set_("_values", {})
        for child in element:
            kind = self._types.get(local(child))
            value = convert(child, kind)
            if kind is not None and local(kind) == "PROPERTY.ARRAY":
                value = self._values.get(local(child), ()) + (value,)
            self._values[local(child)] = value

    def path_(self):
        keys = ",".join('%s="%s"' % pair for pair in self._keys.items())
        return "\\\\.\\%s:%s.%s" % (self._namespace._name.replace("/", "\\"), self._class, keys)

    def associators(self, wmi_association_class=None, wmi_result_class=None):
        keys = ",".join("%s='%s'" % pair for pair in self._keys.items())
        wql = "ASSOCIATORS OF {%s.%s} WHERE" % (self._class, keys)
        wql += " AssocClass = " + wmi_association_class if wmi_association_class else ""
        wql += " ResultClass = " + wmi_result_class if wmi_result_class else ""
        return self._namespace.query(wql)

    def GetText_(self, _format):
        """The instance as CIM-XML, as `GetText` of `IWbemObjectTextSrc` gives it."""
        root = ET.Element("INSTANCE", {"CLASSNAME": self._class})
        for name, value in self._values.items():
            kind = self._types.get(name)
            if kind is None or value is None or isinstance(value, tuple):
                continue
            property_ = ET.SubElement(root, "PROPERTY", {"NAME": name, "TYPE": kind.get("TYPE")})
            ET.SubElement(property_, "VALUE").text = str(value).upper() if isinstance(value, bool) else str(value)
        return ET.tostring(root, encoding="unicode")

    def __setattr__(self, name, value):
        self._values[name] = value

    def __getattr__(self, name):
        if name in self._values:
            return self._values[name]
        if name in self._types:
            return None
        declared = [m for m in self._namespace.declaration(self._class) if m.get("NAME") == name]
        if not declared or local(declared[0]) != "METHOD":
            raise AttributeError(name)
        return lambda *args, **named: self._call(declared[0], args, named)

    def _call(self, method, args, named):
        uri = WMI_URI + self._namespace._name + "/" + self._class
        parameters = sorted(members(method, "PARAMETER"), key=lambda p: p.get("NAME"))
        inputs = [p for p in parameters if has(p, "IN")]
        given = dict(zip((p.get("NAME") for p in inputs), args)) | named
        body = ET.Element("{%s}%s_INPUT" % (uri, method.get("NAME")))
        for parameter in inputs:
            values = given.get(parameter.get("NAME"))
            for value in values if isinstance(values, (list, tuple)) else [values]:
                if value is not None:
                    element = ET.SubElement(body, "{%s}%s" % (uri, parameter.get("NAME")))
                    self._fill(element, parameter, value)
        answer = connection.send(uri + "/" + method.get("NAME"), uri, body, self._keys)
        output = next(element for element in answer.iter() if local(element) == method.get("NAME") + "_OUTPUT")
        results = {p.get("NAME"): None for p in parameters if has(p, "OUT")} | {"ReturnValue": None}
        for name in results:
            children = [child for child in output if local(child) == name]
            results[name] = self._result(name, children, parameters)
        return tuple(results[name] for name in sorted(results))

    def _fill(self, element, parameter, value):
        if "REFERENCE" not in parameter.tag:
            element.text = str(value)
            return
        namespace, _, path = re.sub(r"^\\\\[^\\]+\\", "", value).partition(":")
        name, keys = parse(path)
        ET.SubElement(element, "{%s}Address" % ADDRESSING).text = ADDRESSING + "/role/anonymous"
        content = ET.SubElement(element, "{%s}ReferenceParameters" % ADDRESSING)
        uri = WMI_URI + namespace.replace("\\", "/") + "/" + name
        ET.SubElement(content, "{%s}ResourceURI" % WSMAN).text = uri
        selectors = ET.SubElement(content, "{%s}SelectorSet" % WSMAN)
        for key, text in keys.items():
            ET.SubElement(selectors, "{%s}Selector" % WSMAN, {"Name": key}).text = text

    def _result(self, name, children, parameters):
        if name == "ReturnValue":
            return int(children[0].text)
        parameter = next(p for p in parameters if p.get("NAME") == name)
        if not children or children[0].get(NIL) == "true":
            return None
        if "REFERENCE" in parameter.tag:
            uri = children[0].find(".//{%s}ResourceURI" % WSMAN).text
            return Instance(self._namespace, ET.Element("{%s}%s" % (uri, uri.rsplit("/", 1)[-1])), children[0]).path_()
        values = [Embedded(self._namespace, child) if len(child) else convert(child, parameter) for child in children]
        return values if "ARRAY" in parameter.tag else values[0]


class Embedded:
    """An instance inside an output; its class is told by `xsi:type` or the only child."""

    def __init__(self, namespace, element):
        inner = element[0] if len(element) == 1 and len(element[0]) else element
        name = local(inner) if inner is not element else element.get(NIL.replace("nil", "type"), "").split(":")[-1]
        types = {p.get("NAME"): p for p in members(namespace.declaration(name.removesuffix("_Type")), "PROPERTY")}
        for child in inner:
            setattr(self, local(child), convert(child, types.get(local(child))))


def members(element, kind):
    return [child for child in element if local(child).startswith(kind)]


def has(parameter, qualifier):
    found = [q for q in parameter if local(q) == "QUALIFIER" and q.get("NAME").upper() == qualifier]
    return any((q.findtext("{*}VALUE") or "").upper() == "TRUE" for q in found)


def convert(element, kind):
    """The value of a property, by its declaration."""
    if element.get(NIL) == "true":
        return None
    declared = kind.get("TYPE", "") if kind is not None else ""
    text = element.text or ""
    if declared == "boolean":
        return text == "true"
    if declared.startswith(("uint", "sint")):
        return int(text)
    return text
