-- Make a job known, or add its plan. What is known already stays as it is.
-- KEYS: open, job, committed, inflight, claims, attempts
-- ARGV: name, fields (JSON), planned (JSON), then the shards that are committed
if redis.call('EXISTS', KEYS[2]) == 0 then
  for index = 4, #ARGV do redis.call('SETBIT', KEYS[3], ARGV[index], 1) end
  for field, value in pairs(cjson.decode(ARGV[2])) do redis.call('HSET', KEYS[2], field, value) end
end
for field, value in pairs(cjson.decode(ARGV[3])) do redis.call('HSETNX', KEYS[2], field, value) end
redis.call('SADD', KEYS[1], ARGV[1])
