-- Count a committed shard, once. A job that Redis has forgotten is not half created here: repair rebuilds it.
-- ARGV: name, shard, succeeded, failed, cached
if redis.call('EXISTS', KEYS[2]) == 0 then return 0 end
if redis.call('SETBIT', KEYS[3], ARGV[2], 1) == 0 then
  redis.call('HINCRBY', KEYS[2], 'succeeded', ARGV[3])
  redis.call('HINCRBY', KEYS[2], 'failed', ARGV[4])
  redis.call('HINCRBY', KEYS[2], 'cached', ARGV[5])
end
redis.call('ZREM', KEYS[4], ARGV[2])
redis.call('HDEL', KEYS[5], ARGV[2])
redis.call('HDEL', KEYS[6], ARGV[2])
return 1
