"""One way to ask for the scripts beside this one, over libraries that others wrote.

A connection has `send(action, uri, body, keys)`, which gives the answer's body as an element, or raises what the
library raises. pypsrp makes its own envelopes; pywinrm knows only those of its shells, so its envelopes are made here
and it carries them: the HTTP, TLS, authentication and sealing are its own.
"""
import uuid
import xml.etree.ElementTree as ET
from urllib.parse import urlsplit

S = "http://www.w3.org/2003/05/soap-envelope"
A = "http://schemas.xmlsoap.org/ws/2004/08/addressing"
W = "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"
ANONYMOUS = A + "/role/anonymous"


def connect(library, auth, url, user=None, password=None, authorities=None):
    """A connection; `authorities` names the file with the certificate that the server's is to be checked against."""
    return {"pypsrp": Pypsrp, "pywinrm": Pywinrm}[library](auth, url, user, password, authorities)


class Pypsrp:
    def __init__(self, auth, url, user, password, authorities):
        from pypsrp.wsman import WSMan

        parts = urlsplit(url)
        sealed = parts.scheme == "http" and auth != "basic"
        self.wsman = WSMan(
            parts.hostname,
            port=parts.port,
            ssl=parts.scheme == "https",
            auth=auth,
            encryption="always" if sealed else "never",
            username=user,
            password=password,
            cert_validation=authorities or True,
            negotiate_send_cbt=True,
            # The realm knows the server by this name, whatever its address.
            negotiate_hostname_override="localhost",
            no_proxy=True,
        )

    def send(self, action, uri, body, keys=None):
        from pypsrp.wsman import SelectorSet

        selector_set = None
        if keys:
            selector_set = SelectorSet()
            for key, value in keys.items():
                selector_set.add_option(key, value)
        return self.wsman.invoke(action, uri, body, selector_set=selector_set)


class Pywinrm:
    def __init__(self, auth, url, user, password, authorities):
        from winrm.transport import Transport

        self.url = url
        self.transport = Transport(
            endpoint=url,
            username=user,
            password=password,
            auth_method=auth,
            message_encryption="auto",
            ca_trust_path=authorities or "legacy_requests",
            proxy=None,
            kerberos_hostname_override=None,
        )

    def send(self, action, uri, body, keys=None):
        answer = self.transport.send_message(ET.tostring(envelope(self.url, action, uri, body, keys)))
        if isinstance(answer, str):
            answer = answer.encode()
        return ET.fromstring(answer).find("{%s}Body" % S)


def envelope(url, action, uri, body, keys):
    """A request."""
    root = ET.Element("{%s}Envelope" % S)
    header = ET.SubElement(root, "{%s}Header" % S)
    ET.SubElement(header, "{%s}To" % A).text = url
    ET.SubElement(header, "{%s}Action" % A).text = action
    ET.SubElement(header, "{%s}MessageID" % A).text = "uuid:%s" % uuid.uuid4()
    reply = ET.SubElement(header, "{%s}ReplyTo" % A)
    ET.SubElement(reply, "{%s}Address" % A).text = ANONYMOUS
    ET.SubElement(header, "{%s}ResourceURI" % W, {"{%s}mustUnderstand" % S: "true"}).text = uri
    if keys:
        selector_set = ET.SubElement(header, "{%s}SelectorSet" % W)
        for key, value in keys.items():
            ET.SubElement(selector_set, "{%s}Selector" % W, {"Name": key}).text = value
    ET.SubElement(root, "{%s}Body" % S).append(body)
    return root
