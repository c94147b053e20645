"""Tokens: what is issued is believed, and nothing else is."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from mainstay.auth import WORK, Tokens
from mainstay.config import Settings
from mainstay.errors import Misconfigured, NotAuthenticated, Unavailable

SECRET = "a secret of more than thirty-two bytes"
NOW = 1_800_000_000


class Clock:
    def __init__(self) -> None:
        self.now = float(NOW)

    def __call__(self) -> float:
        return self.now


def settings(**values: Any) -> Settings:
    return Settings(env="test", service_name="bank", **values)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tokens(clock: Clock) -> Tokens:
    return Tokens(settings(jwt_secret_key=SECRET), clock=clock)


def pem(private: Any) -> str:
    text = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return str(text.decode())


def forge(
    header: dict[str, Any] | None = None,
    key: bytes | str = SECRET,
    **changes: Any,
) -> str:
    """Sign by hand, as an attacker would: any header, any claims, any text."""
    claims = {
        "sub": "ann",
        "iss": "bank",
        "aud": "bank",
        "iat": NOW,
        "nbf": NOW,
        "exp": NOW + 60,
        "jti": "1",
        "roles": [],
    }
    claims |= changes
    claims = {name: value for name, value in claims.items() if value is not ...}
    return sign(json.dumps({"alg": "HS256", "typ": "at+jwt"} | (header or {})), claims, key)


def sign(header: str, claims: dict[str, Any] | str, key: bytes | str = SECRET) -> str:
    def encode(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    payload = claims if isinstance(claims, str) else json.dumps(claims)
    text = f"{encode(header.encode())}.{encode(payload.encode())}"
    secret = key.encode() if isinstance(key, str) else key
    mac = hmac.new(secret, text.encode(), hashlib.sha256).digest()
    return f"{text}.{encode(mac)}"


def test_an_issued_token_is_believed(tokens: Tokens) -> None:
    principal = tokens.verify(tokens.issue("ann", roles=["admin"]))
    assert principal.subject == "ann"
    assert principal.roles == {"admin"}


def test_a_well_made_token_of_another_issuer_of_the_same_secret_is_believed(
    tokens: Tokens,
) -> None:
    assert tokens.verify(forge()).subject == "ann"


@pytest.fixture
def plain(clock: Clock) -> Tokens:
    """What takes the tokens of issuers that follow RFC 7519 alone."""
    return Tokens(settings(jwt_secret_key=SECRET, jwt_typ="JWT"), clock=clock)


@pytest.mark.parametrize("typ", [{"typ": "JWT"}, {"typ": "application/jwt"}, {"typ": "at+jwt"}, {}])
def test_plain_tokens_are_believed_where_a_setting_says_so(
    plain: Tokens, tokens: Tokens, typ: dict[str, str]
) -> None:
    header = json.dumps({"alg": "HS256"} | typ)
    claims = {"sub": "ann", "iss": "bank", "aud": "bank", "iat": NOW, "exp": NOW + 60}
    token = sign(header, claims)
    assert plain.verify(token).subject == "ann"
    with pytest.raises(NotAuthenticated, match=r"of type at\+jwt|no jti"):
        tokens.verify(token)


@pytest.mark.parametrize("header", [{"typ": "work+jwt"}, {"typ": "id+jwt"}, {"typ": 5}])
def test_tokens_of_other_types_are_not_taken_for_plain_ones(
    plain: Tokens, header: dict[str, Any]
) -> None:
    with pytest.raises(NotAuthenticated, match="type"):
        plain.verify(forge(header))
    with pytest.raises(NotAuthenticated, match="type"):
        plain.verify(forge({"typ": "JWT"}), typ="work+jwt")


def test_a_principal_carries_a_token_for_work_that_outlives_the_clients_own(
    tokens: Tokens, clock: Clock
) -> None:
    carried = tokens.verify(tokens.issue("ann", roles=["user"])).token
    clock.now += 3600
    assert tokens.verify_work(carried).subject == "ann"
    with pytest.raises(NotAuthenticated, match="type"):
        tokens.verify(carried)


def test_a_token_ends_thirty_seconds_after_its_expiry(tokens: Tokens, clock: Clock) -> None:
    token = tokens.issue("ann", life_seconds=60)
    clock.now = NOW + 89.9
    assert tokens.verify(token).subject == "ann"
    clock.now = NOW + 90.0
    with pytest.raises(NotAuthenticated, match="expired"):
        tokens.verify(token)


def test_a_forgotten_token_is_verified_anew(tokens: Tokens) -> None:
    token = tokens.issue("ann")
    assert tokens.verify(token) is tokens.verify(token)
    before = tokens.verify(token)
    tokens.forget()
    assert tokens.verify(token) is not before


HOSTILE: dict[str, Callable[[], str]] = {
    "empty": lambda: "",
    "one segment": lambda: "abc",
    "five segments": lambda: forge() + ".a.b",
    "not base64": lambda: "§.§.§",
    "larger than 8 KiB": lambda: forge(padding="x" * 9000),
    "deep JSON": lambda: sign('{"alg":"HS256","typ":"at+jwt"}', "[" * 3000 + "]" * 3000),
    "no signature": lambda: forge().rpartition(".")[0] + ".",
    "alg none": lambda: forge({"alg": "none"}),
    "alg None": lambda: forge({"alg": "None"}),
    "alg missing": lambda: forge({"alg": None}),
    "alg a list": lambda: forge({"alg": ["HS256"]}),
    "alg RS256": lambda: forge({"alg": "RS256"}),
    "alg HS512": lambda: forge({"alg": "HS512"}),
    "another secret": lambda: forge(key="another secret of thirty-two bytes!!"),
    "signature of another header": lambda: (
        forge({"kid": "a"}).split(".")[0] + "." + ".".join(forge().split(".")[1:])
    ),
    "typ missing": lambda: forge({"typ": None}),
    "typ JWT": lambda: forge({"typ": "JWT"}),
    "typ of an id token": lambda: forge({"typ": "id+jwt"}),
    "typ a number": lambda: forge({"typ": 1}),
    "kid unknown": lambda: forge({"kid": "unknown"}),
    "kid a path": lambda: forge({"kid": "../../dev/null"}),
    "kid SQL": lambda: forge({"kid": "' or 1=1 --"}),
    "kid a URL": lambda: forge({"kid": "http://127.0.0.1/key"}),
    "kid a list": lambda: forge({"kid": ["a"]}),
    "jku": lambda: forge({"jku": "http://127.0.0.1/"}),
    "x5u": lambda: forge({"x5u": "http://127.0.0.1/"}),
    "jwk": lambda: forge({"jwk": {"kty": "oct", "k": "AAAA"}}),
    "x5c": lambda: forge({"x5c": ["AAAA"]}),
    "crit": lambda: forge({"crit": ["exp"]}),
    "b64": lambda: forge({"b64": False}),
    "header a list": lambda: sign('["HS256"]', {}),
    "header with a key twice": lambda: sign('{"alg":"none","alg":"HS256","typ":"at+jwt"}', {}),
    "claims a list": lambda: sign('{"alg":"HS256","typ":"at+jwt"}', "[]"),
    "claims with a key twice": lambda: sign(
        '{"alg":"HS256","typ":"at+jwt"}',
        json.dumps({"sub": "bob"})[:-1] + ',"sub":"ann"}',
    ),
    "exp missing": lambda: forge(exp=...),
    "exp text": lambda: forge(exp=str(NOW + 60)),
    "exp a float": lambda: forge(exp=NOW + 60.5),
    "exp not a number": lambda: forge(exp=float("nan")),
    "exp infinite": lambda: forge(exp=float("inf")),
    "exp 10^30": lambda: forge(exp=10**30),
    "exp a boolean": lambda: forge(exp=True),
    "exp past": lambda: forge(exp=NOW - 31, iat=NOW - 90),
    "exp before iat": lambda: forge(exp=NOW + 5, iat=NOW + 10),
    "lives two days": lambda: forge(exp=NOW + 2 * 86_400),
    "iat missing": lambda: forge(iat=...),
    "iat in the future": lambda: forge(iat=NOW + 31),
    "nbf in the future": lambda: forge(nbf=NOW + 31),
    "nbf text": lambda: forge(nbf="now"),
    "iss missing": lambda: forge(iss=...),
    "iss another": lambda: forge(iss="other"),
    "iss a list": lambda: forge(iss=["bank"]),
    "aud missing": lambda: forge(aud=...),
    "aud another": lambda: forge(aud="other"),
    "aud a list of others": lambda: forge(aud=["other"]),
    "aud a table": lambda: forge(aud={"bank": 1}),
    "sub missing": lambda: forge(sub=...),
    "sub a number": lambda: forge(sub=1),
    "sub empty": lambda: forge(sub=""),
    "sub long": lambda: forge(sub="x" * 256),
    "jti missing": lambda: forge(jti=...),
    "roles text": lambda: forge(roles="admin"),
    "roles of numbers": lambda: forge(roles=[1]),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_token_is_refused(tokens: Tokens, kind: str) -> None:
    with pytest.raises(NotAuthenticated):
        tokens.verify(HOSTILE[kind]())


@given(position=st.integers(0, 400), replacement=st.characters(max_codepoint=0x2FF))
def test_a_token_changed_in_one_place_is_refused(position: int, replacement: str) -> None:
    tokens = Tokens(settings(jwt_secret_key=SECRET), clock=Clock())
    token = forge()
    position %= len(token) - 1  # the last character of base64 has bits that mean nothing
    changed = token[:position] + replacement + token[position + 1 :]
    if changed != token:
        with pytest.raises(NotAuthenticated):
            tokens.verify(changed)


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (rsa.generate_private_key(65537, 2048), "RS256"),
        (ec.generate_private_key(ec.SECP256R1()), "ES256"),
        (ed25519.Ed25519PrivateKey.generate(), "EdDSA"),
    ],
)
def test_a_private_key_signs_and_its_public_half_is_served(
    key: Any, algorithm: str, clock: Clock
) -> None:
    tokens = Tokens(settings(jwt_private_key=pem(key)), clock=clock)
    token = tokens.issue("ann")
    assert tokens.verify(token).subject == "ann"
    (served,) = tokens.jwks()["keys"]
    assert served["alg"] == algorithm
    assert "d" not in served
    assert jwt.PyJWK(served).key == key.public_key()


@pytest.mark.parametrize("form", ["PEM", "DER", "JWK"])
def test_a_public_key_is_not_taken_for_a_shared_secret(form: str, clock: Clock) -> None:
    key = rsa.generate_private_key(65537, 2048)
    tokens = Tokens(settings(jwt_private_key=pem(key)), clock=clock)
    public = key.public_key()
    secret = {
        "PEM": public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "DER": public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "JWK": json.dumps(tokens.jwks()["keys"][0]).encode(),
    }[form]
    with pytest.raises(NotAuthenticated):
        tokens.verify(forge(key=secret))


def test_a_short_rsa_key_is_refused_at_the_start() -> None:
    weak = pem(rsa.generate_private_key(65537, 1024))
    with pytest.raises(Misconfigured, match="2048"):
        Tokens(settings(jwt_private_key=weak))


def test_without_a_key_nothing_is_believed_and_nothing_issued() -> None:
    tokens = Tokens(settings())
    assert not tokens.can_verify
    with pytest.raises(NotAuthenticated):
        tokens.verify(forge())
    with pytest.raises(Misconfigured, match="JWT_SECRET_KEY"):
        tokens.issue("ann")


class KeyServer:
    """Somebody else's JWKS, over real HTTP."""

    def __init__(self) -> None:
        self.answer = b"{}"
        self.asked = 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked += 1
                self.send_response(200)
                self.end_headers()
                self.wfile.write(outer.answer)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/jwks.json"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def key_server() -> Iterator[KeyServer]:
    server = KeyServer()
    yield server
    server.close()


def test_keys_of_another_service_are_fetched_once_for_many_unknown_keys(
    key_server: KeyServer, clock: Clock
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = Tokens(settings(jwt_private_key=pem(key)), clock=clock)
    key_server.answer = json.dumps(issuer.jwks()).encode()
    verifier = Tokens(settings(jwt_jwks_url=key_server.url), clock=clock)

    assert verifier.verify(issuer.issue("ann")).subject == "ann"
    for number in range(100):
        with pytest.raises(NotAuthenticated):
            verifier.verify(forge({"kid": f"unknown{number}"}))
    assert key_server.asked == 1


def test_without_keys_yet_a_token_is_not_wrong_but_cannot_be_verified(
    key_server: KeyServer, clock: Clock
) -> None:
    issuer = Tokens(
        settings(jwt_private_key=pem(ec.generate_private_key(ec.SECP256R1()))), clock=clock
    )
    key_server.answer = b"not a key set"
    verifier = Tokens(settings(jwt_jwks_url=key_server.url), clock=clock)
    for _ in range(3):
        with pytest.raises(Unavailable) as raised:
            verifier.verify(issuer.issue("ann"))
        assert raised.value.retry_after_seconds
    assert key_server.asked == 1


def test_all_who_come_while_keys_are_fetched_wait_for_them(
    key_server: KeyServer, clock: Clock
) -> None:
    issuer = Tokens(
        settings(jwt_private_key=pem(ec.generate_private_key(ec.SECP256R1()))), clock=clock
    )
    key_server.answer = json.dumps(issuer.jwks()).encode()
    verifier = Tokens(settings(jwt_jwks_url=key_server.url), clock=clock)
    token = issuer.issue("ann")
    with ThreadPoolExecutor(10) as threads:
        found = list(threads.map(lambda _: verifier.verify(token).subject, range(10)))
    assert found == ["ann"] * 10


def test_work_that_makes_work_does_not_renew_its_token(tokens: Tokens, clock: Clock) -> None:
    carried = tokens.verify(tokens.issue("ann")).token
    assert tokens.verify_work(carried).token == carried


async def test_an_event_loop_can_verify_with_fetched_keys(
    key_server: KeyServer, clock: Clock
) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    issuer = Tokens(settings(jwt_private_key=pem(key)), clock=clock)
    key_server.answer = json.dumps(issuer.jwks()).encode()
    verifier = Tokens(settings(jwt_jwks_url=key_server.url), clock=clock)
    principal = await verifier.averify(issuer.issue("ann", typ=WORK), typ=WORK)
    assert principal.subject == "ann"
    assert await verifier.averify(principal.token, typ=WORK) == principal


def test_what_a_verifier_alone_carries_on_is_the_clients_own_token(
    key_server: KeyServer, clock: Clock
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = Tokens(settings(jwt_private_key=pem(key)), clock=clock)
    key_server.answer = json.dumps(issuer.jwks()).encode()
    verifier = Tokens(settings(jwt_jwks_url=key_server.url), clock=clock)
    token = issuer.issue("ann")
    assert verifier.verify(token).token == token
    assert verifier.verify_work(token).subject == "ann"


@pytest.mark.parametrize(
    ("values", "is_loaded"), [("", False), (f"jwt_secret_key={SECRET!r}", True)]
)
def test_cryptography_is_loaded_at_the_start_where_there_are_keys_and_never_elsewhere(
    values: str, is_loaded: bool
) -> None:
    program = (
        "import sys; from mainstay import Service, Settings\n"
        f"Service(Settings(env='test', {values})).tokens\n"
        "print('cryptography' in sys.modules)"
    )

    told = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)

    assert told.stdout.decode().strip() == str(is_loaded)
