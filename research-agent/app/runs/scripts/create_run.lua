#!lua flags=allow-oom
-- Store a new run and take its lease. Remove the oldest finished runs first if runs take too much memory.
--
-- Runs may use three quarters of `maxmemory`; the rest is left to rate limits, leases and unfinished runs.
--
-- KEYS  run         hash of the run
--       leases      sorted set: run id by the time at which its lease expires
--       running     sorted set: the caller's unfinished runs by the latest time at which they end
--       alias       name of the run, for an idempotency key; an empty string if there is none
--       finished    sorted set: run id by the time at which it finished
-- ARGV  id, caller, owner (of the lease), record (JSON),
--       lease (seconds), max_seconds (the longest time that a run can take), max_runs (of one caller),
--       ttl (seconds for which a finished run is kept)
-- Returns the run's id; the id of the run that the alias already names; 'busy' if the caller has too many
-- unfinished runs; 'full' if no finished run is left to remove.
local run, leases, running, alias, finished = unpack(KEYS)
local id, caller, owner, record, lease, max_seconds, max_runs, ttl = unpack(ARGV)
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000

if alias ~= '' then
  local known = redis.call('GET', alias)
  if known and redis.call('EXISTS', 'run:' .. known) == 1 then return known end
end

redis.call('ZREMRANGEBYSCORE', running, '-inf', now)
if redis.call('ZCARD', running) >= tonumber(max_runs) then return 'busy' end

redis.call('ZREMRANGEBYSCORE', finished, '-inf', now - ttl)  -- their keys have expired
local function too_much()
  local info = redis.call('INFO', 'memory')
  local function bytes(field) return tonumber(info:match('\n' .. field .. ':(%d+)')) end
  local limit = 0.75 * bytes('maxmemory')  -- 0 means that there is no limit
  -- As for Redis' own limit, what waits to be written to a disk does not count: removing runs does not shrink it.
  return limit > 0 and bytes('used_memory') - bytes('mem_not_counted_for_evict') > limit
end
while too_much() do
  local oldest = redis.call('ZPOPMIN', finished)[1]
  if not oldest then return 'full' end
  redis.call('DEL', 'run:' .. oldest, 'events:' .. oldest)
end

redis.call('ZADD', running, now + max_seconds, id)
redis.call('EXPIRE', running, math.ceil(max_seconds))
redis.call('HSET', run, 'record', record, 'caller', caller, 'owner', owner, 'epoch', 0)
redis.call('EXPIRE', run, math.ceil(max_seconds + ttl))
redis.call('ZADD', leases, now + lease, id)
if alias ~= '' then redis.call('SET', alias, id, 'EX', ttl) end
return id
