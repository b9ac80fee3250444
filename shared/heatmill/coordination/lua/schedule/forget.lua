-- Drop a job.
-- KEYS: all that belong to it
-- ARGV: name
for _, shard in ipairs(redis.call('ZRANGE', of(ARGV[1], 'inflight'), 0, -1)) do
  redis.call('ZREM', 'heatmill:outstanding', ARGV[1] .. ':' .. shard)
end
withdraw_from_all(ARGV[1])
redis.call('ZREM', 'heatmill:changed', ARGV[1])
redis.call('SREM', 'heatmill:open', ARGV[1])
redis.call('DEL', unpack(KEYS))
