-- Append events to a run, write its record if it has changed, and renew the lease. Only the owner may do that.
--
-- KEYS  run         hash of the run
--       leases      sorted set: run id by the time at which its lease expires
--       running     sorted set: the caller's unfinished runs
--       events      stream of the run's events; its ids are the events' own ids
--       finished    sorted set: run id by the time at which it finished
-- ARGV  id, owner (of the lease), epoch, record (JSON; empty if it has not changed), over ('1': these are the
--       last events), lease (seconds), max_seconds (the longest time that a run can take), ttl (seconds for
--       which a finished run is kept), first ('1': these are the run's first events); then the id and the JSON
--       of each event
-- Returns 'written'; 'not_owner' if another replica owns the run; 'missing' if there is no such run (any more)
-- and these are not its first events. Events that are already in the stream are skipped.
local run, leases, running, events, finished = unpack(KEYS)
local id, owner, epoch, record, over, lease, max_seconds, ttl, first = unpack(ARGV, 1, 9)
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000

local stored = redis.call('HMGET', run, 'owner', 'epoch')
if stored[1] and (stored[1] ~= owner or stored[2] ~= epoch) then return 'not_owner' end
if not stored[1] then
  if first == '0' then return 'missing' end
  redis.call('HSET', run, 'owner', owner, 'epoch', epoch)
end

if record ~= '' then redis.call('HSET', run, 'record', record) end
for n = 10, #ARGV, 2 do
  local added = redis.pcall('XADD', events, ARGV[n], 'event', ARGV[n + 1])
  -- An id that is "equal or smaller" was written before.
  if added.err and not string.find(added.err, 'equal or smaller') then return added end
end

local keep = math.ceil(max_seconds + ttl)
if over == '1' then
  keep = ttl
  redis.call('ZREM', leases, id)
  redis.call('ZREM', running, id)
  redis.call('ZADD', finished, now, id)
else
  redis.call('ZADD', leases, now + lease, id)
end
redis.call('EXPIRE', run, keep)
redis.call('EXPIRE', events, keep)
return 'written'
