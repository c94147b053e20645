"""How does a request that is sent twice have one effect and one answer?

The sender names its request with an ``Idempotency-Key``. Its first arrival *claims* the key, in a
transaction of the claim's own that is committed before any work: so a twin hears at once that the
request is under way, and nothing is held open while the handler waits for others. The claim is a
lease with an owner. The answer and "done" are then written in the handler's own transaction, and
only while the owner still holds the claim: an effect without its answer cannot exist, and a
worker that lost its lease to another rolls back. A store that is somewhere else promises less: the
effect is committed first, and a process that dies before its answer is stored, or whose database
breaks off the commit, has it done again once its lease has ended.

What is here decides and knows no store; the stores are in ``mainstay.resources``.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from email.message import Message
from typing import Any, Protocol, TypeVar

import orjson

from mainstay import failpoints
from mainstay.errors import Disconnected, Fenced, Invalid, MainstayError, Malformed, UnderWay
from mainstay.pipeline import Step, Steps

__all__ = [
    "HEADER",
    "REPLAYED_HEADER",
    "Answer",
    "Claim",
    "Request",
    "Store",
    "Verdict",
    "Work",
    "fingerprint",
    "once",
    "parse_key",
    "verdict",
]

HEADER = "idempotency-key"
REPLAYED_HEADER = "Idempotency-Replayed"
MAX_STORED_BYTES = 16_777_216
"""Of an answer that is stored. Twice what a body of 1 MiB comes to when it is sent back in two
places, as JSON that writes `1e15` as `1000000000000000.0`.
"""

_BARE = re.compile(r"[!-~]{1,255}\Z")
# A string of RFC 9651: printable ASCII between quotes, quotes and backslashes escaped. Spaces are
# left out, because a key is visible characters.
_QUOTED = re.compile(r'"((?:[!#-\[\]-~]|\\["\\])*)"\Z')

# Numbers that are different and may be read as the same one: more digits than a double has, and
# exponents. A body that may hold one is compared byte for byte.
_INEXACT = re.compile(rb"[0-9.]{16,}|[0-9][eE]")

S_contra = TypeVar("S_contra", contravariant=True)


def parse_key(value: str) -> str:
    """Read the value of an ``Idempotency-Key``, bare or quoted.

    ``abc`` and ``"abc"`` are the same key.

    Raises:
        Malformed: It is not 1 to 255 visible ASCII characters.
    """
    quoted = _QUOTED.match(value)
    key = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else value
    if not _BARE.match(key):
        raise Malformed(
            "the Idempotency-Key header is not 1 to 255 visible ASCII characters, bare or in "
            "double quotes: send a new random one, such as a UUID"
        )
    return key


def fingerprint(body: bytes, content_type: str = "") -> bytes:
    """Return what tells a body from every other: SHA-256 over its media type and its content.

    JSON that differs in blanks or in the order of names alone is the same body, and so are forms
    of several parts that differ in the boundary alone, which clients draw anew each time.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type == "application/json" or media_type.endswith("+json"):
        body = _canonical(body)
    elif media_type.startswith("multipart/"):
        body = _without_boundary(body, content_type)
    return hashlib.sha256(media_type.encode() + b"\0" + body).digest()


def _canonical(body: bytes) -> bytes:
    if _INEXACT.search(body):
        return body
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body  # it will be refused, and the same bytes are the same refusal
    return orjson.dumps(parsed, option=orjson.OPT_SORT_KEYS)


def _without_boundary(body: bytes, content_type: str) -> bytes:
    head = Message()
    head["content-type"] = content_type
    boundary = head.get_boundary()
    if not boundary:
        return body
    parts = body.split(b"--" + boundary.encode("latin-1", "replace"))
    # With the length of each, or what is in one could pass for two.
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


@dataclass(frozen=True, slots=True)
class Request:
    """A request with a key, as a store sees it.

    Args:
        scope: Whose key it is and for what; see :meth:`of`.
        operation: Method and route, for people.
        fingerprint: Of the body.
        lease_seconds: After this long another worker may take over: the request's deadline.
    """

    scope: str
    operation: str
    fingerprint: bytes
    lease_seconds: float

    @classmethod
    def of(
        cls,
        key: str,
        *,
        operation: str,
        target: str = "",
        principal: str,
        body: bytes,
        content_type: str = "",
        lease_seconds: float,
    ) -> Request:
        """Describe a request: one principal's key says nothing about another's.

        Args:
            key: As :func:`parse_key` returned it.
            operation: Method and route, ``POST /orders/{id}/pay``; stored, for people.
            target: What the operation is done to, ``/orders/7/pay?in=EUR``, where its name does
                not say it: one key for two of them is two requests. It is not stored, since a
                query may hold a secret.
            principal: Who asks; empty for nobody in particular.
        """
        parts = "\0".join((principal, operation, target, key))
        scope = hashlib.sha256(parts.encode()).hexdigest()
        return cls(scope, operation, fingerprint(body, content_type), lease_seconds)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the first arrival was answered, byte for byte.

    Args:
        headers: Those that belong to the answer itself: content type, ``Location``, and the like.
        fits: False when the answer says that the body does not fit: then the key stays free, and
            the sender may use it for the body that does.
        keeps: The effect is kept also when the answer is an error, or the handler raised.
        has_raised: The handler raised, and somebody made an answer of that.
    """

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    fits: bool = True
    keeps: bool = False
    has_raised: bool = False
    is_replay: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Claim:
    """A key that is this worker's until the lease ends.

    Args:
        owner: Random; nobody else's claim has it.
        epoch: How many times the key has been claimed; a takeover counts.
    """

    scope: str
    owner: str
    epoch: int
    lease_seconds: float

    @staticmethod
    def new_owner() -> str:
        return secrets.token_hex(16)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of the handler's work and of its answer.

    Args:
        keeps_effect: Commit what the handler did.
        keeps_answer: Give this answer again to whoever sends the same request.
    """

    keeps_effect: bool
    keeps_answer: bool


def verdict(answer: Answer) -> Verdict:
    """Say what is kept: an answer of 2xx or 3xx with its effect; a 4xx, and what is answered for a
    handler that raised, without any effect, unless the handler keeps it.

    An answer that may be otherwise the next time is not kept: 5xx, 429 and bodies that do not fit.
    """
    is_success = answer.status < 400
    is_final = answer.status < 500 and answer.status != 429 and answer.fits
    return Verdict(
        keeps_effect=answer.keeps or (is_success and not answer.has_raised),
        keeps_answer=is_success or is_final,
    )


class Store(Protocol[S_contra]):
    """Where keys are kept; ``S_contra`` is the transaction that the answer is written in."""

    @property
    def is_beside_effect(self) -> bool:
        """Are the effect and its answer committed together? Else the effect comes first."""

    def claim(self, request: Request) -> Claim | Answer:
        """Claim the key and commit that, or return the answer that was given before.

        A key whose lease has ended without an answer is taken over.

        Raises:
            Invalid: The key was used for another body.
            UnderWay: Another worker holds it; says when to ask again.
            Unavailable: The store does not answer; nothing was claimed.
        """

    def finish(self, session: S_contra | None, claim: Claim, answer: Answer) -> None:
        """Write the answer and "done" in the transaction of *session*, or in one of its own.

        Raises:
            Fenced: The claim was taken over; roll back.
        """

    def free(self, claim: Claim) -> None:
        """Give the key back, unless somebody else has it by now."""

    async def aclaim(self, request: Request) -> Claim | Answer:
        """As :meth:`claim`."""

    async def afinish(self, session: Any, claim: Claim, answer: Answer) -> None:
        """As :meth:`finish`, with an asyncio session."""

    async def afree(self, claim: Claim) -> None:
        """As :meth:`free`."""


@dataclass(frozen=True, slots=True)
class Work:
    """The handler and the transaction that it works in, as its way in gives them.

    Args:
        handle: Does the work and returns its answer; commits nothing.
        session: Returns the transaction of the work, or ``None`` where the work has none.
        commit: Commits it.
        rollback: Rolls it back.
    """

    handle: Step[Answer]
    session: Callable[[], Any]
    commit: Step[None]
    rollback: Step[None]


def once(store: Store[Any], request: Request, work: Work) -> Steps[Answer]:
    """Do *work* for the first arrival of *request*; return that answer to every other.

    Raises:
        Invalid, UnderWay, Unavailable: As the store's `claim` does; nothing was done.
        Fenced: The work took longer than the lease and another worker has it; it is rolled back.
        MainstayError: The answer is too long to be stored; the work is rolled back.
    """
    failpoints.reach("keys.before_claim")
    found: Claim | Answer = yield Step(lambda: store.claim(request), lambda: store.aclaim(request))
    if isinstance(found, Answer):
        return found
    claim = found
    failpoints.reach("keys.after_claim")
    try:
        answer: Answer = yield work.handle
        kept = verdict(answer)
        if kept.keeps_answer and len(answer.body) > MAX_STORED_BYTES:
            raise _too_long(request, answer)
        if kept.keeps_effect and kept.keeps_answer:
            failpoints.reach("keys.after_effect")
            if store.is_beside_effect:
                yield _finish(store, work.session, claim, answer)
                failpoints.reach("keys.before_commit")
                yield work.commit
            else:
                # In this order, or an answer could be given again whose effect was never kept.
                yield work.commit
                failpoints.reach("keys.before_answer")
                with suppress(Exception):  # the effect is there: the answer is true without it
                    yield _finish(store, _no_session, claim, answer)
            failpoints.reach("keys.after_commit")
            return answer
        yield work.commit if kept.keeps_effect else work.rollback
        if kept.keeps_answer:
            yield _finish(store, _no_session, claim, answer)
            return answer
    except GeneratorExit:  # nobody takes a step any more: the lease ends by itself
        raise
    except BaseException as error:
        yield from _abandon(store, claim, work, error)
        raise
    yield _free(store, claim)
    return answer


def _abandon(store: Store[Any], claim: Claim, work: Work, error: BaseException) -> Steps[None]:
    # The error that led here is the one to tell. A transaction that cannot be rolled back is
    # gone with its connection, and a claim that cannot be freed ends with its lease.
    with suppress(Exception):
        yield work.rollback
    # A commit whose outcome is unknown may have been kept. Beside the effect its answer was kept
    # with it, and a store frees no key that has one; elsewhere the next arrival would find the key
    # free and do all of it again at once.
    if isinstance(error, Disconnected) and not store.is_beside_effect:
        return
    with suppress(Exception):
        yield _free(store, claim)


def _free(store: Store[Any], claim: Claim) -> Step[None]:
    return Step(lambda: store.free(claim), lambda: store.afree(claim))


def _finish(
    store: Store[Any], session: Callable[[], Any], claim: Claim, answer: Answer
) -> Step[None]:
    return Step(
        lambda: store.finish(session(), claim, answer),
        lambda: store.afinish(session(), claim, answer),
    )


def _too_long(request: Request, answer: Answer) -> MainstayError:
    return MainstayError(
        f"the answer of {request.operation} has {len(answer.body)} bytes, and one that is given "
        f"again under an Idempotency-Key may have {MAX_STORED_BYTES}: answer with less, such as "
        f"a link, or take no key there"
    )


def _no_session() -> None:
    return None


def other_body() -> Invalid:
    """Return what a store raises for a key that came with another body before."""
    return Invalid(
        "this Idempotency-Key was used for another body: send a new key with a new request"
    )


def under_way(lease_left_seconds: float) -> UnderWay:
    """Return what a store raises for a key that another worker holds."""
    # Most requests are done long before their lease ends, so ask again soon.
    return UnderWay(
        "a request with this Idempotency-Key is under way: ask again a little later",
        retry_after_seconds=min(max(lease_left_seconds, 1.0), 2.0),
    )


def taken_over() -> Fenced:
    """Return what a store raises when a claim's lease has ended and another worker has it."""
    return Fenced(
        "another worker has taken this request over, because it took longer than its lease: "
        "nothing of it was kept here; ask again for the answer of the other"
    )
