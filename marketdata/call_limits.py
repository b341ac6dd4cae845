"""How many calls of one kind all processes may make together within a time, counted in Redis by its own clock."""

from __future__ import annotations

from collections.abc import Iterable

from marketdata.live_state import call, key

_CALL_TAKE = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local wait = math.max(redis.call('PTTL', KEYS[2]), 0)
local longest = 0
for i = 1, #ARGV, 2 do
  local window, most = tonumber(ARGV[i]), tonumber(ARGV[i + 1])
  longest = math.max(longest, window)
  local last = redis.call('ZREVRANGE', KEYS[1], most - 1, most - 1, 'WITHSCORES')
  if last[2] then wait = math.max(wait, last[2] + window - now) end
end
if wait > 0 then return wait end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - longest)
redis.call('ZADD', KEYS[1], now, now .. '.' .. redis.call('INCR', KEYS[1] .. '.n'))
redis.call('PEXPIRE', KEYS[1], longest)
redis.call('PEXPIRE', KEYS[1] .. '.n', longest)
return 0
"""


def call_take(name: str, windows: Iterable[tuple[float, int]]) -> float:
    """Note a call that is about to be made, of all processes together; or note nothing, where one more would be too many.

    Args:
        name: what is limited.
        windows: (seconds, calls within any stretch of so many seconds, at least 1), by Redis's own clock.

    Returns:
        0: it may be made now. Else the seconds after which to ask again.

    Raises:
        Unavailable: nothing is known.
    """
    limits = [round(number) for seconds, most in windows for number in (seconds * 1000, most)]
    return float(call("eval", _CALL_TAKE, 2, key(f"calls.{name}"), key(f"calls.{name}.pause"), *limits)) / 1000


def calls_pause(name: str, seconds: float) -> None:
    """Let nobody make such a call for so long; a pause that ends later stays.

    Raises:
        Unavailable: nobody else knows.
    """
    call("set", key(f"calls.{name}.pause"), 1, None, round(seconds * 1000), True)
    call("pexpire", key(f"calls.{name}.pause"), round(seconds * 1000), False, False, True)
