-- Shards that were taken, and could not be sent: their deadlines end now.
-- KEYS: -
-- ARGV: name, shard, name, shard ...
for place = 1, #ARGV, 2 do
  local job, shard = ARGV[place], ARGV[place + 1]
  if redis.call('ZSCORE', of(job, 'inflight'), shard) and not redis.call('HGET', of(job, 'claims'), shard) then
    redis.call('ZADD', of(job, 'inflight'), now, shard)
    redis.call('ZADD', 'heatmill:outstanding', now, job .. ':' .. shard)
  end
end
