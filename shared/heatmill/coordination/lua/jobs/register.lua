-- Make a job known, or add its plan. What is known already stays as it is.
-- KEYS: open, job, committed, inflight, claims, attempts, turns, parts
-- ARGV: name, fields (JSON), planned (JSON), the shards that are committed (bits), those that are half done (JSON)
if redis.call('EXISTS', KEYS[2]) == 0 then
  if #ARGV[4] > 0 then
    redis.call('SET', KEYS[3], ARGV[4])
    -- Else the next `take` would look at every one of them.
    redis.call('HSET', KEYS[2], 'cursor', redis.call('BITPOS', KEYS[3], 0))
  end
  for shard, counts in pairs(cjson.decode(ARGV[5])) do redis.call('HSET', KEYS[8], shard, counts) end
  for field, value in pairs(cjson.decode(ARGV[2])) do redis.call('HSET', KEYS[2], field, value) end
end
for field, value in pairs(cjson.decode(ARGV[3])) do redis.call('HSETNX', KEYS[2], field, value) end
redis.call('SADD', KEYS[1], ARGV[1])
redis.call('ZADD', 'heatmill:changed', 0, ARGV[1])
