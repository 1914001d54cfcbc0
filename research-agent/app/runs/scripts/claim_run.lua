#!lua flags=allow-oom
-- Take over one run whose lease has expired, in its next epoch.
--
-- KEYS  leases      sorted set: run id by the time at which its lease expires
-- ARGV  owner (the new one), lease (seconds), prefix (of the runs' keys)
-- Returns {id, caller, record, epoch, takeovers}, or nil if no lease has expired. `takeovers` counts the
-- replicas that ended without handing the run over.
local leases = KEYS[1]
local owner, lease, prefix = unpack(ARGV)
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000

local id, run, record
repeat
  id = redis.call('ZRANGEBYSCORE', leases, '-inf', now, 'LIMIT', 0, 1)[1]
  if not id then return nil end
  run = prefix .. id
  record = redis.call('HGET', run, 'record')
  if not record then redis.call('ZREM', leases, id) end  -- the run itself has expired
until record

local epoch = redis.call('HINCRBY', run, 'epoch', 1)
local handed_over = redis.call('HDEL', run, 'released') == 1
local takeovers = redis.call('HINCRBY', run, 'takeovers', handed_over and 0 or 1)
redis.call('HSET', run, 'owner', owner)
redis.call('ZADD', leases, now + lease, id)
return {id, redis.call('HGET', run, 'caller') or '', record, epoch, takeovers}
