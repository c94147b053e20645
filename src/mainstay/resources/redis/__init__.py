"""Redis or Valkey, held open: a blocking and an asyncio client that never hang."""

from mainstay.extras import require

require("redis", extra="redis")

from mainstay.resources.redis.client import Redis  # noqa: E402 - the extra is checked first
from mainstay.resources.redis.deadletters import RedisDeadLetters  # noqa: E402 - likewise

__all__ = ["Redis", "RedisDeadLetters"]
