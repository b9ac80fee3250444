-- Count a committed part of a shard, or a whole shard, once. A job that Redis has forgotten is not half created here:
-- repair rebuilds it.
-- KEYS: open, job, committed, inflight, claims, attempts, turns, parts
-- ARGV: name, shard, part (-1: the whole shard), parts of the shard, succeeded, failed, cached
if redis.call('EXISTS', KEYS[2]) == 0 then return 0 end
if redis.call('GETBIT', KEYS[3], ARGV[2]) == 0 then
  local parts, succeeded, failed, cached =
    (redis.call('HGET', KEYS[8], ARGV[2]) or '0 0 0 0'):match('^(%d+) (%d+) (%d+) (%d+)$')
  local counted = {succeeded = succeeded, failed = failed, cached = cached}
  local told = {succeeded = ARGV[5], failed = ARGV[6], cached = ARGV[7]}
  local part, all = tonumber(ARGV[3]), 2 ^ tonumber(ARGV[4]) - 1
  local function count(field, difference) redis.call('HINCRBY', KEYS[2], field, difference) end

  if part < 0 then
    -- What its parts have counted is not counted again.
    for field, value in pairs(told) do count(field, value - counted[field]) end
    parts = all
  elseif math.floor(parts / 2 ^ part) % 2 == 0 then
    for field, value in pairs(told) do
      count(field, value)
      counted[field] = counted[field] + value
    end
    parts = parts + 2 ^ part
    if tonumber(redis.call('HGET', KEYS[6], ARGV[2]) or 0) > 1 then redis.call('HSET', KEYS[6], ARGV[2], 1) end
  end
  if tonumber(parts) < all then
    local counts = {parts, counted.succeeded, counted.failed, counted.cached}
    redis.call('HSET', KEYS[8], ARGV[2], table.concat(counts, ' '))
    return 1
  end
  redis.call('SETBIT', KEYS[3], ARGV[2], 1)
  redis.call('HDEL', KEYS[8], ARGV[2])
end
redis.call('ZREM', KEYS[4], ARGV[2])
redis.call('ZREM', KEYS[7], ARGV[1] .. ':' .. ARGV[2])
redis.call('ZADD', 'heatmill:changed', 0, ARGV[1])
redis.call('HDEL', KEYS[5], ARGV[2])
redis.call('HDEL', KEYS[6], ARGV[2])
return 1
