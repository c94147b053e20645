"""What is stored in Redis: the names of keys and fields, and the scripts that change them.

What must not be seen half done, or must be decided on the server's own clock, is a script.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from mainstay.deadletters import DeadLetter
from mainstay.rpc.wire import FUNCTION

__all__ = [
    "BURY",
    "CALL",
    "DONE",
    "FULL",
    "GIVE_BACK",
    "GROUP",
    "HEARTBEAT",
    "LEAVE",
    "LOOK",
    "NOBODY",
    "RENEW",
    "headers_from",
    "is_reply_key",
    "reply_key",
    "requeue",
    "servers_key",
]

_REPLY_KEY = re.compile(rb"mainstay:replies:[0-9a-f]{32}")

GROUP = "servers"
NOBODY, FULL = b"nobody", b"full"


def servers_key(queue: str) -> str:
    """Return the key of the living servers; braces keep it on the node of *queue*."""
    return f"{{{queue}}}:servers"


def reply_key(client_id: str) -> str:
    return f"mainstay:replies:{client_id}"


def is_reply_key(key: bytes) -> bool:
    """Is *key* one of :func:`reply_key`? A call may name any, and no other one is written to."""
    return _REPLY_KEY.fullmatch(key) is not None


# A member is "<waiting limit>:<consumer>", so that callers know both with one look.
# KEYS: queue, servers. ARGV: reply key; then of each call wire id, id, function, headers, body,
# milliseconds left. Returns how many were taken, and why not the rest.
CALL = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local server = redis.call('ZRANGE', KEYS[2], -1, -1, 'WITHSCORES')
if not server[1] or tonumber(server[2]) < now then return {0, 'nobody'} end
local room = tonumber(string.match(server[1], '^%d+')) - redis.call('XLEN', KEYS[1])
local taken = 0
for i = 2, #ARGV, 6 do
  if taken >= room then return {taken, 'full'} end
  local id = redis.pcall('XADD', KEYS[1], 'NOMKSTREAM', '*', 'reply_to', ARGV[1],
    'wire_id', ARGV[i], 'id', ARGV[i + 1], 'function', ARGV[i + 2], 'headers', ARGV[i + 3],
    'body', ARGV[i + 4], 'deadline_ms', string.format('%.0f', now + ARGV[i + 5]))
  if not id then return {taken, 'nobody'} end
  if type(id) == 'table' then return {taken, id.err} end
  taken = taken + 1
end
return {taken}
"""

# Is there a server, or one that is still at work though it takes nothing new? Returns 1 or 0.
# KEYS: queue, servers. ARGV: group, milliseconds after which a server at work has been heard of.
LOOK = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if #redis.call('ZRANGEBYSCORE', KEYS[2], now, '+inf', 'LIMIT', 0, 1) > 0 then return 1 end
local length = redis.call('XLEN', KEYS[1])
if length == 0 then return 1 end
if length > redis.call('XPENDING', KEYS[1], ARGV[1])[1] then return 0 end
return #redis.call('XPENDING', KEYS[1], ARGV[1], 'IDLE', ARGV[2], '-', '+', 1) == 0 and 1 or 0
"""

# KEYS: servers. ARGV: member, milliseconds until it counts as gone. Returns the server's time.
HEARTBEAT = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. string.format('%.0f', now))
redis.call('PEXPIRE', KEYS[1], 10 * ARGV[2])
return now
"""

# Stay the owner of what is in hand. An entry that another has taken since is left to it.
# KEYS: queue. ARGV: group, consumer, ids.
RENEW = """
for i = 3, #ARGV do
  local entry = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1)[1]
  if entry and entry[2] == ARGV[2] then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i], 'JUSTID')
  end
end
"""

# Take what was done off the queue. An entry that another has taken since is left to it.
# KEYS: queue. ARGV: group, consumer, ids.
DONE = """
local mine = {}
if #ARGV > 5 then
  local pending = redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1000, ARGV[2])
  for _, entry in ipairs(pending) do mine[entry[1]] = true end
end
local ids = {}
for i = 3, #ARGV do
  local is_mine = mine[ARGV[i]]
  if not is_mine then
    local entry = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1)[1]
    is_mine = not entry or entry[2] == ARGV[2]
  end
  if is_mine then ids[#ids + 1] = ARGV[i] end
end
if #ids > 0 then
  redis.call('XACK', KEYS[1], ARGV[1], unpack(ids))
  redis.call('XDEL', KEYS[1], unpack(ids))
end
"""

# Let the next server that looks take an entry, as if it had not been delivered here.
# KEYS: queue. ARGV: group, consumer, id, milliseconds that it is to have been idle.
GIVE_BACK = """
local entry = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1)[1]
if entry and entry[2] == ARGV[2] then
  redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[3], 'IDLE', ARGV[4],
    'RETRYCOUNT', math.max(entry[4] - 1, 0), 'JUSTID')
end
"""

# The dead letter is stored before the call leaves the queue, or neither happens. Returns the id of
# the call whose letter was stored, or nothing.
# KEYS: queue, dead letters. ARGV: group, id, consumer that must have it, or '' for whoever let it
# lie; milliseconds that it must have been idle; then the fields of the letter, or nothing to keep
# those of the entry under the reason 'delivery-limit'.
BURY = """
local idle = redis.call('XPENDING', KEYS[1], ARGV[1], 'IDLE', ARGV[4], ARGV[2], ARGV[2], 1)
if #idle == 0 or (ARGV[3] ~= '' and idle[1][2] ~= ARGV[3]) then return false end
local letter = {}
for i = 5, #ARGV do letter[#letter + 1] = ARGV[i] end
if #letter == 0 then
  local entry = redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[2])[1]
  if entry then
    local field = {}
    for i = 1, #entry[2], 2 do field[entry[2][i]] = entry[2][i + 1] end
    local time = redis.call('TIME')
    local ok, headers = pcall(cjson.decode, field['headers'] or '')
    if not ok or type(headers) ~= 'table' then headers = {} end
    headers['x-mainstay-token'], headers['x-timeout-seconds'] = nil, nil
    letter = {'id', field['id'] or ARGV[2], 'kind', 'call', 'queue', KEYS[1],
      'reason', 'delivery-limit', 'name', field['function'] or '',
      'detail', 'delivered ' .. idle[1][4] .. ' times without an end: it kills its servers',
      'died_at', time[1] .. '.' .. string.format('%06d', time[2]),
      'headers', next(headers) and cjson.encode(headers) or '{}',
      'body', field['body'] or '', 'envelope', ''}
  end
end
if #letter > 0 then redis.call('XADD', KEYS[2], '*', unpack(letter)) end
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
redis.call('XDEL', KEYS[1], ARGV[2])
return letter[2] or false
"""

# A consumer that goes takes what is pending for it along, so it stays while there is any.
# KEYS: queue. ARGV: group, consumer.
LEAVE = """
if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2]) == 0 then
  return redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
end
return -1
"""


def headers_from(text: bytes) -> dict[str, str]:
    """Return the headers of an entry; what is none is left out."""
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    if not isinstance(found, dict):
        return {}
    return {name: value for name, value in found.items() if isinstance(value, str)}


def requeue(pipe: Any, letter: DeadLetter) -> None:
    """Add the command that puts *letter* back on its queue to a pipeline of redis-py.

    Nobody waits for its answer any more, so it carries no deadline and no address to reply to.
    """
    headers: Mapping[str, str] = letter.headers
    fields = {
        "id": letter.id,
        "function": letter.name or headers.get(FUNCTION, ""),
        "headers": orjson.dumps(dict(headers)),
        "body": letter.body,
    }
    pipe.xadd(letter.queue, fields)
