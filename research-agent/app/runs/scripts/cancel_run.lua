#!lua flags=allow-oom
-- Record that a run is to be cancelled. Its owner reads that when it renews the lease.
--
-- KEYS  run         hash of the run; nothing is written if it does not exist
-- ARGV  (none)
local run = KEYS[1]
if redis.call('EXISTS', run) == 1 then redis.call('HSET', run, 'cancelled', 1) end
