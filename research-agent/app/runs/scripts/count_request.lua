#!lua flags=allow-oom
-- Count one request of a caller in the current minute, which starts with the first request.
--
-- KEYS  rate        counter of the caller; it expires with its minute
-- ARGV  (none)
-- Returns {requests in this minute, seconds until the minute is over}.
local rate = KEYS[1]
local count = redis.call('INCR', rate)
if count == 1 then redis.call('EXPIRE', rate, 60) end
return {count, redis.call('TTL', rate)}
