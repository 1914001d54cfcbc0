#!lua flags=allow-oom
-- SET with an expiry, as a script: unlike the plain command it also works when Redis is out of memory.
--
-- KEYS  key
-- ARGV  value, milliseconds
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
