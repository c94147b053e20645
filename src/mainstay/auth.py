"""Who asks? Signed tokens that the receiver verifies, on every wire.

A token is a JWT (RFC 7519) profiled as an access token (RFC 9068). PyJWT checks signatures; the
checks around it are ours, because PyJWT accepts what no service should: `exp` as text or in the
year 10^22, duplicate JSON keys, a `jku` header, any `typ`, tokens of megabytes. It is imported
where it is used: it loads cryptography, which a service without keys need not wait for.

Two kinds are told apart by their `typ`: ``at+jwt`` is what a client shows at the edge,
``work+jwt`` is what a service makes of it for the work that follows, so that a task that waits
longer than an access token lives still knows for whom it runs.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import threading
import time
from base64 import urlsafe_b64decode
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mainstay.context import Principal
from mainstay.errors import Misconfigured, NotAuthenticated, Unavailable

if TYPE_CHECKING:
    from jwt import PyJWS
    from jwt.algorithms import Algorithm

    from mainstay.config import Settings

__all__ = ["ACCESS", "WORK", "Tokens"]

ACCESS = "at+jwt"
WORK = "work+jwt"

TOKEN_LIMIT_BYTES = 8192
LEEWAY_SECONDS = 30
LONGEST_LIFE_SECONDS = 86_400
WORK_LIFE_SECONDS = 86_400
SHORTEST_SECRET_BYTES = 32

_CACHE_SIZE = 10_000
_JWKS_LIMIT_BYTES = 262_144
_JWKS_TIMEOUT_SECONDS = 2.0
_JWKS_COOLDOWN_SECONDS = 30.0

_HEADER_KEYS = frozenset({"alg", "typ", "kid"})
_KID = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_SEGMENTS = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\Z")


class _Key:
    """A verification key and the one algorithm it may be used with."""

    __slots__ = ("algorithm", "material")

    def __init__(self, material: Any, algorithm: str) -> None:
        self.material = material
        self.algorithm = algorithm


class Tokens:
    """Issues and verifies tokens as the settings say.

    One of three sources of keys: a shared secret (HS256), a private key in PEM (RS256, ES256 or
    EdDSA, by the kind of key; the public half is served as JWKS), or the URL of somebody else's
    JWKS, with which tokens can be verified only.

    Args:
        settings: `jwt_*`.
        clock: Seconds since the epoch.
    """

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._clock = clock
        self._issuer = settings.jwt_issuer or settings.service_name
        self._audience = settings.jwt_audience or settings.service_name
        self._signing: tuple[Any, str, str] | None = None
        self._keys: dict[str, _Key] = {}
        self._jwks_url: str | None = None
        self._jwks_asked_at = float("-inf")
        self._lock = threading.Lock()
        self._fetching = threading.Lock()
        # Verified tokens, until they expire: a signature costs more than all other stations.
        self._verified: OrderedDict[tuple[str, str], tuple[float, Principal]] = OrderedDict()
        self._read_keys()
        if self.can_verify:
            _signatures()  # now, and not while the first token waits

    @property
    def can_verify(self) -> bool:
        """Is there any key to verify with?"""
        return bool(self._keys) or self._jwks_url is not None

    @property
    def can_issue(self) -> bool:
        return self._signing is not None

    def issue(
        self,
        subject: str,
        *,
        roles: Iterable[str] = (),
        typ: str = ACCESS,
        life_seconds: int | None = None,
        claims: Mapping[str, object] | None = None,
    ) -> str:
        """Sign a token for *subject*.

        Args:
            subject: A stable id.
            roles: What the subject may act as.
            typ: The kind of token.
            life_seconds: Until it expires; `jwt_access_ttl_seconds` by default.
            claims: Others to include; they cannot replace the standard ones.

        Raises:
            Misconfigured: There is no key to sign with.
        """
        if self._signing is None:
            raise Misconfigured(
                "no key to sign tokens with: set JWT_SECRET_KEY (at least 32 bytes) "
                "or JWT_PRIVATE_KEY (PEM)"
            )
        key, algorithm, kid = self._signing
        now = int(self._clock())
        life = self._settings.jwt_access_ttl_seconds if life_seconds is None else life_seconds
        payload = dict(claims or {}) | {
            "sub": subject,
            "iss": self._issuer,
            "aud": self._audience,
            "iat": now,
            "nbf": now,
            "exp": now + life,
            "jti": secrets.token_hex(16),
            "roles": sorted(roles),
        }
        import jwt

        return jwt.encode(payload, key, algorithm=algorithm, headers={"typ": typ, "kid": kid})

    def verify(self, token: str, *, typ: str = ACCESS) -> Principal:
        """Return who *token* vouches for.

        Blocks for a moment when a JWKS must be fetched: on an event loop, use :meth:`averify`.

        Raises:
            NotAuthenticated: It does not; the message gives no hint about what to forge next.
            Unavailable: The keys could not be fetched.
        """
        now = self._clock()
        cached = self._verified.get((typ, token))
        if cached is not None and now < cached[0]:
            return cached[1]
        try:
            claims = self.claims(token, typ=typ)
        except (NotAuthenticated, Unavailable):
            raise
        except Exception as error:  # hostile tokens find errors that no list has
            raise NotAuthenticated("the token cannot be read: sign in again") from error
        principal = self._principal(token, typ, claims)
        with self._lock:
            self._verified[typ, token] = (claims["exp"] + LEEWAY_SECONDS, principal)
            while len(self._verified) > _CACHE_SIZE:
                self._verified.popitem(last=False)
        return principal

    async def averify(self, token: str, *, typ: str = ACCESS) -> Principal:
        """As :meth:`verify`; fetches a JWKS in a thread."""
        cached = self._verified.get((typ, token))
        if cached is not None and self._clock() < cached[0]:
            return cached[1]
        if self._jwks_url is None:
            return self.verify(token, typ=typ)
        import asyncio

        return await asyncio.to_thread(self.verify, token, typ=typ)

    def verify_work(self, token: str) -> Principal:
        """Return whom a task, call or event is done for: its token is one of ours for work, or
        the client's own where the sender had no key to sign with.
        """
        try:
            return self.verify(token, typ=WORK)
        except NotAuthenticated:
            return self.verify(token, typ=ACCESS)

    def forget(self) -> None:
        """Verify every token anew, because one was revoked."""
        with self._lock:
            self._verified.clear()

    def claims(self, token: str, *, typ: str = ACCESS) -> dict[str, Any]:
        """Verify *token* and return all its claims, without the cache."""
        if len(token) > TOKEN_LIMIT_BYTES or not _SEGMENTS.match(token):
            raise NotAuthenticated("the token is not a signed JWT: sign in again")
        header = _parse(urlsafe_b64decode(token.partition(".")[0] + "=="))
        if not header.keys() <= _HEADER_KEYS:
            raise NotAuthenticated("the token's header has more than alg, typ and kid")
        if not self._is_of(typ, header.get("typ")):
            raise NotAuthenticated(f"the token is not of type {typ}")
        key = self._key(header.get("kid"))
        if header.get("alg") != key.algorithm:
            raise NotAuthenticated("the token's algorithm is not that of its key")
        from jwt import PyJWTError

        try:
            verified = _signatures().decode(token, key.material, algorithms=[key.algorithm])
        except PyJWTError as error:
            raise NotAuthenticated("the token's signature is not right: sign in again") from error
        claims = _parse(verified)
        self._check(claims, typ)
        return claims

    def jwks(self) -> dict[str, Any]:
        """Return the public keys (RFC 7517); none for a shared secret."""
        keys = []
        for kid, key in self._keys.items():
            if key.algorithm.startswith("HS"):
                continue
            jwk = dict(_algorithm(key.algorithm).to_jwk(key.material, as_dict=True))
            keys.append(jwk | {"kid": kid, "alg": key.algorithm, "use": "sig"})
        return {"keys": keys}

    def _is_plain(self, typ: str) -> bool:
        """Are tokens of *typ* plain ones here, without what RFC 9068 asks for beyond RFC 7519?"""
        return typ == ACCESS and self._settings.jwt_typ == "JWT"

    def _is_of(self, typ: str, found: object) -> bool:
        if found is None:
            return self._is_plain(typ)
        if not isinstance(found, str):
            return False
        told = found.lower().removeprefix("application/")
        return told == typ or (told == "jwt" and self._is_plain(typ))

    def _check(self, claims: dict[str, Any], typ: str) -> None:
        now = self._clock()
        for name in ("exp", "iat", "nbf"):
            value = claims.get(name)
            if name == "nbf" and value is None:
                continue
            if type(value) is not int or not 0 <= value < 2**53:
                raise NotAuthenticated(f"the token's {name} is not a time")
        if now >= claims["exp"] + LEEWAY_SECONDS:
            raise NotAuthenticated("the token has expired: sign in again")
        if claims["iat"] > now + LEEWAY_SECONDS or claims.get("nbf", 0) > now + LEEWAY_SECONDS:
            raise NotAuthenticated("the token is not valid yet")
        if not 0 < claims["exp"] - claims["iat"] <= LONGEST_LIFE_SECONDS:
            raise NotAuthenticated("the token lives longer than a day")
        if claims.get("iss") != self._issuer:
            raise NotAuthenticated("the token was issued by somebody else")
        audience = claims.get("aud")
        if isinstance(audience, str):
            audience = [audience]
        if not isinstance(audience, list) or self._audience not in audience:
            raise NotAuthenticated("the token is for somebody else")
        for name in ("sub", "jti"):
            value = claims.get(name)
            if value is None and name == "jti" and self._is_plain(typ):
                continue
            if not isinstance(value, str) or not 1 <= len(value) <= 255:
                raise NotAuthenticated(f"the token has no {name}")

    def _principal(self, token: str, typ: str, claims: dict[str, Any]) -> Principal:
        roles = claims.get("roles", [])
        if not isinstance(roles, list) or not all(isinstance(role, str) for role in roles):
            raise NotAuthenticated("the token's roles are not a list of names")
        carried = token
        # Work that makes work passes its token on as it is: none may live longer than its own life.
        if self.can_issue and typ == ACCESS:
            carried = self.issue(
                claims["sub"], roles=roles, typ=WORK, life_seconds=WORK_LIFE_SECONDS
            )
        return Principal(claims["sub"], frozenset(roles), carried)

    def _key(self, kid: object) -> _Key:
        if kid is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        if not isinstance(kid, str) or not _KID.match(kid):
            raise NotAuthenticated("the token does not say which key signed it")
        key = self._keys.get(kid)
        if key is None and self._jwks_url is not None:
            self._fetch_jwks(self._jwks_url)
            key = self._keys.get(kid)
        if key is None:
            raise NotAuthenticated("the token was signed with a key that is not known here")
        return key

    def _read_keys(self) -> None:
        settings = self._settings
        if settings.jwt_secret_key is not None:
            secret = settings.jwt_secret_key.get_secret_value().encode()
            if len(secret) < SHORTEST_SECRET_BYTES:
                raise Misconfigured("JWT_SECRET_KEY is shorter than 32 bytes: use a longer one")
            kid = hashlib.sha256(b"kid:" + secret).hexdigest()[:16]
            self._keys[kid] = _Key(secret, "HS256")
            self._signing = (secret, "HS256", kid)
        elif settings.jwt_private_key is not None:
            self._read_private_key(settings.jwt_private_key.get_secret_value())
        elif settings.jwt_jwks_url is not None:
            self._jwks_url = settings.jwt_jwks_url
            if urlsplit(self._jwks_url).scheme not in ("http", "https"):
                raise Misconfigured("JWT_JWKS_URL is not an http(s) address")

    def _read_private_key(self, pem: str) -> None:
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            private = load_pem_private_key(pem.encode(), password=None)
        except (TypeError, ValueError) as error:
            raise Misconfigured(
                "JWT_PRIVATE_KEY is not an unencrypted private key in PEM"
            ) from error
        if isinstance(private, rsa.RSAPrivateKey) and private.key_size >= 2048:
            algorithm = "RS256"
        elif isinstance(private, ec.EllipticCurvePrivateKey) and private.curve.name == "secp256r1":
            algorithm = "ES256"
        elif isinstance(private, ed25519.Ed25519PrivateKey):
            algorithm = "EdDSA"
        else:
            raise Misconfigured(
                "JWT_PRIVATE_KEY is of a kind that is not accepted: use RSA (2048 bits or more), "
                "P-256 or Ed25519"
            )
        public = private.public_key()
        jwk = json.dumps(_algorithm(algorithm).to_jwk(public, as_dict=True), sort_keys=True)
        kid = hashlib.sha256(jwk.encode()).hexdigest()[:16]
        self._keys[kid] = _Key(public, algorithm)
        self._signing = (private, algorithm, kid)

    def _fetch_jwks(self, url: str) -> None:
        """Fetch the keys, at most once a cool-down whoever asks; known keys go on working.

        Raises:
            Unavailable: There are no keys yet: a token that cannot be verified is not wrong.
        """
        with self._fetching:  # who comes while they are fetched waits for them
            rest = self._jwks_asked_at + _JWKS_COOLDOWN_SECONDS - time.monotonic()
            if rest <= 0.0:
                self._jwks_asked_at, rest = time.monotonic(), _JWKS_COOLDOWN_SECONDS
                try:
                    self._keys = _asked(url) or self._keys
                except Exception as error:  # network, JSON or keys: the answer is the same
                    if not self._keys:
                        raise _no_keys(rest) from error
            elif not self._keys:
                raise _no_keys(rest)


def _asked(url: str) -> dict[str, _Key]:
    import urllib.request

    from jwt import PyJWKSet

    # The scheme was checked when the settings were read.
    with urllib.request.urlopen(url, timeout=_JWKS_TIMEOUT_SECONDS) as response:  # noqa: S310 - http(s) alone
        body = response.read(_JWKS_LIMIT_BYTES + 1)
    if len(body) > _JWKS_LIMIT_BYTES:
        raise ValueError("the key set is larger than 256 KiB")
    return {
        jwk.key_id: _Key(jwk.key, jwk.algorithm_name)
        for jwk in PyJWKSet.from_dict(_parse(body)).keys
        if jwk.key_id and jwk.algorithm_name in ("RS256", "ES256", "EdDSA")
    }


def _no_keys(retry_after_seconds: float) -> Unavailable:
    return Unavailable(
        "the keys that verify tokens could not be fetched yet",
        retry_after_seconds=retry_after_seconds,
    )


@cache
def _signatures() -> PyJWS:
    """Return what looks at signatures alone: every check of a claim is made here, strictly."""
    from jwt import PyJWS

    return PyJWS(options={"enforce_minimum_key_length": True})


def _algorithm(name: str) -> Algorithm:
    from jwt.algorithms import get_default_algorithms

    return get_default_algorithms()[name]


def _parse(text: bytes) -> dict[str, Any]:
    """Parse a JSON object, refusing a key that is there twice."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(items)
        if len(made) != len(items):
            raise NotAuthenticated("the token has a key twice")
        return made

    parsed = json.loads(text, object_pairs_hook=pairs)
    if not isinstance(parsed, dict):
        raise NotAuthenticated("the token's parts are not JSON objects")
    return parsed
