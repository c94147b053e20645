"""Calls over Redis or Valkey: a stream a queue, a consumer group of servers, a stream of replies.

=========================  =======================================================================
``<queue>``                the requests; empty when nothing waits and nothing is in hand
``<queue>_dlq``            its dead letters
``{<queue>}:servers``      which servers live, by when they must have been heard of again
``mainstay:replies:<id>``  the replies of one client; gone two minutes after it
=========================  =======================================================================
"""

from mainstay.extras import require

require("hiredis", extra="redis")

from mainstay.rpc.redis_streams.layout import requeue  # noqa: E402 - the extra is first
from mainstay.rpc.redis_streams.room import ROOM  # noqa: E402 - likewise
from mainstay.rpc.redis_streams.server import StreamsIntake  # noqa: E402 - likewise

__all__ = ["ROOM", "StreamsIntake", "requeue"]
