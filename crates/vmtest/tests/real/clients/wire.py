"""HTTP by hand for the authentication matrix: one connection, one request at a time, every answer looked at closely.

Tokens are made by pyspnego and bodies sealed by pypsrp; what goes into which request is decided here, so that requests
can be wrong in ways that no client library would send.
"""
import base64
import http.client
import re
import ssl
import xml.etree.ElementTree as ET

from pypsrp.encryption import WinRMEncryption

BASE = "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/"
SOAP = "application/soap+xml;charset=UTF-8"
S = "{http://www.w3.org/2003/05/soap-envelope}"


class Answer:
    """What came back, with everything that differs from one try to the next taken out."""

    def __init__(self, response, body):
        self.status, self.body = response.status, body
        self.type = response.getheader("Content-Type", "")
        self.challenges = response.headers.get_all("WWW-Authenticate", [])
        kept = [h for h in response.getheaders() if h[0].lower() not in ("date", "www-authenticate")]
        self.outside = (self.status, kept, sorted(c.split()[0] for c in self.challenges), body)

    def token(self):
        """The server's token, if there is one."""
        for challenge in self.challenges:
            scheme, _, rest = challenge.partition(" ")
            if scheme in ("Negotiate", "Kerberos") and rest:
                return base64.b64decode(rest)
        return None

    def __str__(self):
        offers = [re.sub(r"^(Negotiate|Kerberos) .+", r"\1 token", challenge) for challenge in self.challenges]
        return " ".join(filter(None, [str(self.status), said(self.body), "; ".join(offers)]))


def said(body):
    """An envelope's subject: the local name of what its body holds, a fault with its codes; or the text."""
    if not body:
        return ""
    try:
        content = ET.fromstring(body).find(S + "Body")[0]
    except (ET.ParseError, IndexError, TypeError):
        return repr(body[:80].decode("utf-8", "replace").strip())
    if content.tag != S + "Fault":
        return content.tag.rsplit("}", 1)[-1]
    subcode = content.find("%sCode/%sSubcode/%sValue" % (S, S, S))
    reason = content.find("%sReason/%sText" % (S, S))
    return "fault %s (%s)" % (subcode.text if subcode is not None else "", reason.text)


class Wire:
    """One connection."""

    def __init__(self, address, authorities=None):
        host, _, port = address.rpartition(":")
        if authorities:
            context = ssl.create_default_context(cafile=authorities)
            self.connection = http.client.HTTPSConnection(host, int(port), context=context)
        else:
            self.connection = http.client.HTTPConnection(host, int(port))
        self.secure = bool(authorities)

    def post(self, body=b"", authorization=None, content_type=SOAP):
        headers = {"Content-Type": content_type}
        if authorization:
            headers["Authorization"] = authorization
        self.connection.request("POST", "/wsman", body, headers)
        response = self.connection.getresponse()
        return Answer(response, response.read())

    def post_sealed(self, context, body, spoil=lambda sealed: sealed):
        """A sealed request, and what stands in the sealed answer."""
        sealer = WinRMEncryption(context, WinRMEncryption.SPNEGO)
        kind, sealed = sealer.wrap_message(body)
        kind = '%s;protocol="%s";boundary="Encrypted Boundary"' % (kind, WinRMEncryption.SPNEGO)
        answer = self.post(spoil(sealed), content_type=kind)
        if answer.type.startswith("multipart/encrypted"):
            answer.body = b"" + sealer.unwrap_message(answer.body, "Encrypted Boundary")
        return answer

    def certificate_hash(self):
        """SHA-256 of the server's certificate, which is what tokens are bound to."""
        import hashlib

        self.connection.connect()
        return hashlib.sha256(self.connection.sock.getpeercert(binary_form=True)).digest()


def envelope(action, uri, selectors="", content=""):
    """A request with nothing in it that need not be."""
    return (
        '<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope"'
        ' xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing"'
        ' xmlns:w="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"><s:Header><a:To>http://h/wsman</a:To>'
        "<a:Action>%s</a:Action><a:MessageID>uuid:5d1c1f0e-3c3e-4a2b-9f2b-1c1d3a5b7e9f</a:MessageID>"
        "<a:ReplyTo><a:Address>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:Address></a:ReplyTo>"
        "<w:ResourceURI>%s</w:ResourceURI>%s</s:Header><s:Body>%s</s:Body></s:Envelope>"
        % (action, uri, selectors, content)
    ).encode()


# What everybody may ask who may ask anything.
LOOK = envelope("http://schemas.xmlsoap.org/ws/2004/09/transfer/Get", BASE + "Msvm_VirtualSystemSnapshotService")
# What a reader may not. Whether the machine exists is not for him to find out either.
CHANGE = envelope(
    BASE + "Msvm_VirtualSystemManagementService/DefineSystem",
    BASE + "Msvm_VirtualSystemManagementService",
    content='<p:DefineSystem_INPUT xmlns:p="%sMsvm_VirtualSystemManagementService"/>' % BASE,
)
