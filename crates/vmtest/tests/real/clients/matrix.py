"""Every way of saying who one is, each in every way of getting it wrong, over one transport.

Prints for each scheme the answers seen, and below each what was tried. What must hold besides is checked here: answers to
wrong credentials are the same to the byte, whatever is wrong and whether the user exists, and so hold nothing to learn.
Usage: matrix.py loopback|remote|tls HOST:PORT [AUTHORITIES], with the realm's files named in the environment: CCACHES, a
directory with the ticket caches alice, bob, reader, other and short, whose tickets last seconds; KRB5_CONFIG and
OTHER_KRB5_CONFIG; SKEW_SECONDS.
"""
import contextlib
import os
import struct
import sys
import textwrap
import time
from base64 import b64encode

import spnego
from spnego._ntlm_raw import messages
from spnego.channel_bindings import GssChannelBindings

from wire import CHANGE, LOOK, Wire

PASSWORDS = {"alice": "alice's secret", "bob": "bob's secret", "reader": "reader's secret", "off": "off's secret"}
OPTIONS = spnego.NegotiateOptions.wrapping_winrm
# How much clocks may differ in the realm.
SKEW_SECONDS = int(os.environ["SKEW_SECONDS"])
PLACE, ADDRESS = sys.argv[1:3]
AUTHORITIES = sys.argv[3] if len(sys.argv) > 3 else None


def connect():
    return Wire(ADDRESS, AUTHORITIES)


ANSWERS = {}


def tell(scheme, wrong, answer):
    ANSWERS.setdefault(scheme, {}).setdefault(str(answer), []).append(wrong)


def show():
    for scheme, answers in ANSWERS.items():
        print(scheme)
        for answer, tries in answers.items():
            print("  " + answer)
            print(textwrap.fill("; ".join(tries), 110, initial_indent="    ", subsequent_indent="    "))


def bindings(certificate_hash):
    return GssChannelBindings(application_data=b"tls-server-end-point:" + certificate_hash)


@contextlib.contextmanager
def variable(name, value):
    """An environment in which a variable has another value."""
    before = os.environ.get(name)
    os.environ[name] = value
    yield
    os.environ.pop(name)
    if before is not None:
        os.environ[name] = before


def client(scheme, user, password, wire, service="HTTP", host="localhost", bound=True):
    """What makes the tokens of one attempt; `bound` to the connection's certificate, to nothing, or to a hash."""
    if bound is True:
        bound = wire.certificate_hash() if wire.secure else False
    protocol = {"ntlm": "ntlm", "spnego": "negotiate", "kerberos": "negotiate", "krb5": "kerberos"}[scheme]
    return spnego.client(
        user,
        password,
        hostname=host,
        service=service,
        channel_bindings=bindings(bound) if bound else None,
        protocol=protocol,
        options=OPTIONS,
    )


def header(scheme, token):
    return "%s %s" % ("Kerberos" if scheme == "krb5" else "Negotiate", b64encode(token).decode())


class Attempt:
    """A conversation of tokens over a connection, with empty bodies, as far as it gets."""

    def __init__(self, scheme, user=None, password=None, wire=None, alter=lambda token: token, **options):
        self.wire = wire or connect()
        self.context = client(scheme, user, password, self.wire, **options)
        self.tokens, token = [], None
        while True:
            token = self.context.step(token)
            if token is None:
                return
            token = alter(token)
            self.tokens.append(token)
            self.answer = self.wire.post(authorization=header(scheme, token))
            token = self.answer.token()
            if self.context.complete or token is None:
                if token and not self.context.complete:
                    self.context.step(token)
                return

    def ask(self, body=LOOK, **options):
        """The answer to a request after the conversation, sealed where that is asked for."""
        if self.answer.status != 200:
            return self.answer
        if PLACE == "remote":
            return self.wire.post_sealed(self.context, body, **options)
        return self.wire.post(body)


REFUSALS = []


def refused(scheme, wrong, answer):
    """A try that must end like all others of its kind."""
    tell(scheme, wrong, answer)
    REFUSALS.append((scheme, wrong, answer.outside))


def basic(user, password, body=LOOK):
    return connect().post(body, "Basic " + b64encode(("%s:%s" % (user, password)).encode()).decode())


def try_nothing():
    tell("none", "no credentials", connect().post(LOOK))
    tell("none", "empty body", connect().post())
    tell("none", "unknown scheme", connect().post(LOOK, "Digest username=alice"))
    tell("none", "Negotiate without token", connect().post(LOOK, "Negotiate"))
    tell("none", "Negotiate with rubbish", connect().post(LOOK, "Negotiate AAAA"))


def try_basic():
    tell("basic", "right", basic("alice", PASSWORDS["alice"]))
    tell("basic", "host and user", basic("HOST\\alice", PASSWORDS["alice"]))
    refused("basic", "wrong password", basic("alice", "guess"))
    refused("basic", "unknown user", basic("nobody", "guess"))
    refused("basic", "another's password", basic("bob", PASSWORDS["alice"]))
    refused("basic", "no password", basic("alice", ""))
    refused("basic", "disabled user", basic("off", PASSWORDS["off"]))
    tell("basic", "role too small", basic("reader", PASSWORDS["reader"], CHANGE))
    for _ in range(6):
        basic("locked", "guess")
    refused("basic", "locked-out user", basic("locked", "locked's secret"))
    tell("basic", "right again", basic("alice", PASSWORDS["alice"]))


def without_timestamp(token):
    """A challenge that does not ask for a MIC, so that pyspnego sends none."""
    old = messages.Challenge.unpack(token)
    info = old.target_info
    del info[messages.AvId.timestamp]
    return messages.Challenge(old.flags, old.server_challenge, old.target_name, info, old.version).pack()


def try_ntlm(scheme):
    right = Attempt(scheme, "alice", PASSWORDS["alice"])
    assert right.context.negotiated_protocol == "ntlm"
    tell(scheme, "right", right.ask())
    tell(scheme, "again, without a header", right.ask())
    refused(scheme, "wrong password", Attempt(scheme, "alice", "guess").answer)
    refused(scheme, "unknown user", Attempt(scheme, "nobody", "guess").answer)
    refused(scheme, "another's password", Attempt(scheme, "bob", PASSWORDS["alice"]).answer)
    refused(scheme, "disabled user", Attempt(scheme, "off", PASSWORDS["off"]).answer)
    if scheme == "ntlm":
        try_crafted_ntlm()
    replayed = connect()
    replayed.post(authorization=header(scheme, right.tokens[0]))
    refused(scheme, "replayed, other challenge", replayed.post(authorization=header(scheme, right.tokens[-1])))
    refused(scheme, "replayed, no challenge", connect().post(authorization=header(scheme, right.tokens[-1])))
    tell(scheme, "role too small", Attempt(scheme, "reader", PASSWORDS["reader"]).ask(CHANGE))
    refused(scheme, "locked-out user", Attempt(scheme, "locked", "locked's secret").answer)
    tell(scheme, "right again", Attempt(scheme, "alice", PASSWORDS["alice"]).ask())


def try_crafted_ntlm():
    alice = ("ntlm", "alice", PASSWORDS["alice"])
    refused("ntlm", "MIC of zeros", Attempt(*alice, alter=renamed(mic=bytes(16))).answer)
    refused("ntlm", "name changed on the way", Attempt(*alice, alter=renamed(name="bob")).answer)
    refused("ntlm", "missing MIC", missing_mic())
    with variable("LM_COMPAT_LEVEL", "1"):
        refused("ntlm", "NTLMv1", Attempt(*alice).answer)
    refused("ntlm", "anonymous", anonymous())
    tell("ntlm", "right again", Attempt(*alice).ask())


def renamed(name=None, mic=None):
    """Changes an AUTHENTICATE message on its way."""

    def alter(token):
        if token[8] != 3:
            return token
        old = messages.Authenticate.unpack(token)
        return messages.Authenticate(
            old.flags,
            old.lm_challenge_response,
            old.nt_challenge_response,
            old.domain_name,
            name or old.user_name,
            old.workstation,
            old.encrypted_random_session_key,
            old.version,
            mic or old.mic,
        ).pack()

    return alter


def missing_mic():
    wire = connect()
    context = client("ntlm", "alice", PASSWORDS["alice"], wire)
    answer = wire.post(authorization=header("ntlm", context.step()))
    token = context.step(without_timestamp(answer.token()))
    # Room for a MIC is always there.
    assert messages.Authenticate.unpack(token).mic in (None, bytes(16))
    return wire.post(authorization=header("ntlm", token))


def anonymous():
    wire = connect()
    context = client("ntlm", "alice", PASSWORDS["alice"], wire)
    challenge = messages.Challenge.unpack(wire.post(authorization=header("ntlm", context.step())).token())
    flags = challenge.flags | messages.NegotiateFlags.anonymous
    token = messages.Authenticate(flags, b"\0", b"", encrypted_session_key=bytes(16)).pack()
    return wire.post(authorization=header("ntlm", token))


def use_tickets(name):
    os.environ["KRB5CCNAME"] = "FILE:" + os.path.join(os.environ["CCACHES"], name)


def try_kerberos(scheme):
    use_tickets("alice")
    right = Attempt(scheme)
    tell(scheme, "right", right.ask())
    tell(scheme, "again, without a header", right.ask())
    refused(scheme, "replayed ticket", connect().post(authorization=header(scheme, right.tokens[0])))
    refused(scheme, "changed on the way", Attempt(scheme, alter=lambda t: t[:-9] + bytes([t[-9] ^ 1]) + t[-8:]).answer)
    refused(scheme, "key not in the keytab", Attempt(scheme, host="elsewhere").answer)
    refused(scheme, "ticket for another service", Attempt(scheme, service="nfs").answer)
    use_tickets("bob")
    refused(scheme, "not in the users file", Attempt(scheme).answer)
    use_tickets("reader")
    tell(scheme, "role too small", Attempt(scheme).ask(CHANGE))
    use_tickets("short")
    refused(scheme, "expired ticket", Attempt(scheme).answer)
    with variable("KRB5_CONFIG", os.environ["OTHER_KRB5_CONFIG"]):
        use_tickets("other")
        refused(scheme, "other realm", Attempt(scheme).answer)
    use_tickets("alice")
    tell(scheme, "right again", Attempt(scheme).ask())


def age_tickets(name):
    """Waits until the tickets of a cache have ended also for a host whose clock is late, and makes the cache say that
    they have not, or no client would send them. A cache has the times of a ticket as four numbers in a row."""
    path = os.path.join(os.environ["CCACHES"], name)
    with open(path, "rb") as file:
        cache, now, end = bytearray(file.read()), int(time.time()), 0
    for at in range(len(cache) - 16):
        begun, starts, ends, renewable = struct.unpack_from(">4I", cache, at)
        if now - 600 < begun <= now + 1 and begun <= starts < ends < now + 600 and renewable in (0, ends):
            struct.pack_into(">I", cache, at + 8, now + 86400)
            end = max(end, ends)
    assert end, "no short-lived ticket in the cache"
    while time.time() <= end + SKEW_SECONDS + 1:
        time.sleep(0.1)
    with open(path, "wb") as file:
        file.write(cache)


def try_bindings(scheme, *user):
    """What only TLS can get wrong: a token that was made for a connection to somebody else."""
    refused(scheme, "made for another server", Attempt(scheme, *user, bound=bytes(32)).answer)
    tell(scheme, "not bound to the connection", Attempt(scheme, *user, bound=False).ask())


def try_bodies(scheme, *user):
    """What only sealing can get wrong."""
    tell(scheme, "body in clear", Attempt(scheme, *user).wire.post(LOOK))

    def flip(sealed):
        at = sealed.index(b"octet-stream\r\n") + 90
        return sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]

    attempt = Attempt(scheme, *user)
    tell(scheme, "sealed body changed", attempt.ask(spoil=flip))
    tell(scheme, "a good one after that", attempt.ask())
    kept = []
    attempt = Attempt(scheme, *user)
    attempt.ask(spoil=lambda sealed: kept.append(sealed) or sealed)
    tell(scheme, "sealed body sent again", attempt.ask(spoil=lambda sealed: kept[0]))


def main():
    try_nothing()
    if PLACE == "remote":
        tell("basic", "in clear", basic("alice", PASSWORDS["alice"]))
        for _ in range(6):
            Attempt("ntlm", "locked", "guess")
    else:
        try_basic()
    special = {"remote": try_bodies, "tls": try_bindings}.get(PLACE, lambda *_: None)
    for scheme in ("ntlm", "spnego"):
        # Who has a password for a realm would use Kerberos.
        with variable("KRB5_CONFIG", os.devnull):
            try_ntlm(scheme)
            special(scheme, "alice", PASSWORDS["alice"])
    age_tickets("short")
    for scheme in ("kerberos", "krb5"):
        try_kerberos(scheme)
        special(scheme)
    for scheme, wrong, outside in REFUSALS:
        assert outside == REFUSALS[0][2], "another refusal for %s, %s: %s" % (scheme, wrong, outside)
    show()
    print("all", len(REFUSALS), "refusals are the same")


main()
