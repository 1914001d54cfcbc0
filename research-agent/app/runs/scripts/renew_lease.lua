#!lua flags=allow-oom
-- Renew the lease of a run, and report what other replicas have recorded about it.
--
-- KEYS  run         hash of the run
--       leases      sorted set: run id by the time at which its lease expires
--       followed    exists while a client of another replica follows the run
-- ARGV  id, owner (of the lease), lease (seconds)
-- Returns {held, cancelled, followed}, each 0 or 1. `held` is 0 if another replica owns the run.
local run, leases, followed = unpack(KEYS)
local id, owner, lease = unpack(ARGV)
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000

local stored = redis.call('HMGET', run, 'owner', 'cancelled')
if stored[1] and stored[1] ~= owner then return {0, 0, 0} end
redis.call('ZADD', leases, 'XX', now + lease, id)  -- XX: a finished run has no lease, and gets none
return {1, stored[2] and 1 or 0, redis.call('EXISTS', followed)}
