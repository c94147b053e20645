"""Where may an answer go, on RabbitMQ?

Anybody may send a call, and say in it where the answer is to go. Only addresses of direct reply-to
are obeyed, which the broker makes (https://www.rabbitmq.com/docs/direct-reply-to): the name of a
queue would have a server put its answers among the work, or the dead letters, of another. And one
that it cannot decode RabbitMQ 3.10 answers by closing the whole connection, with all that its
server has in hand, so each is looked at before anything is sent there.
"""

from __future__ import annotations

import base64
import binascii
import re
from functools import lru_cache

from mainstay.rpc.amqp.layout import REPLIES

__all__ = ["is_address"]

# A process of the broker as Erlang writes one down, and a key: the process' node is a hash.
# https://www.erlang.org/doc/apps/erts/erl_ext_dist.html#new_pid_ext
_PROCESS = re.compile(rb"\x83(?P<kind>[Xg])(?:v(?P<long>..)|w(?P<short>.))(?P<rest>.*)", re.DOTALL)
_NODE = re.compile(rb"[^@]+@\d{1,10}")
_SIZES = {b"X": 12, b"g": 9}


@lru_cache(maxsize=1024)
def is_address(reply_to: str) -> bool:
    """Is *reply_to* where a caller waits for its answer, as the broker has written it down?"""
    if not reply_to.startswith(f"{REPLIES}."):
        return False
    process, dot, key = reply_to.removeprefix(f"{REPLIES}.").partition(".")
    if not dot or not key:
        return False
    try:
        found = _PROCESS.fullmatch(base64.b64decode(process, validate=True))
    except (binascii.Error, ValueError):
        return False
    if found is None:
        return False
    length = int.from_bytes(found["long"] or found["short"])
    node, numbers = found["rest"][:length], found["rest"][length:]
    return _NODE.fullmatch(node) is not None and len(numbers) == _SIZES[found["kind"]]
