#!lua flags=allow-oom
-- End the lease of a run now, so that another replica can claim the run at once.
--
-- KEYS  run         hash of the run
--       leases      sorted set: run id by the time at which its lease expires
-- ARGV  id, owner (of the lease)
local run, leases = unpack(KEYS)
local id, owner = unpack(ARGV)
if redis.call('HGET', run, 'owner') == owner then
  redis.call('HSET', run, 'released', 1)
  redis.call('ZADD', leases, 'XX', 0, id)  -- XX: a finished run gets no lease
end
