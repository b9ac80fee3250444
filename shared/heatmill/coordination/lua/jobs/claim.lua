-- Take a shard to work on. Answers the attempt's number, or why not.
-- ARGV: name, shard, token, time in ms
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if redis.call('EXISTS', KEYS[2]) == 0 then return 'unknown' end
if redis.call('GETBIT', KEYS[3], ARGV[2]) == 1 then return 'committed' end
if redis.call('HEXISTS', KEYS[2], 'cancelled') == 1 then return 'cancelled' end
local shards = redis.call('HGET', KEYS[2], 'shards')
if shards and tonumber(ARGV[2]) >= tonumber(shards) then
  -- The map is made when all shards are.
  local is_map = ARGV[2] == shards and redis.call('HEXISTS', KEYS[2], 'map') == 1
  if not is_map or redis.call('BITCOUNT', KEYS[3]) < tonumber(shards) then return 'unknown' end
end

local holder = redis.call('HGET', KEYS[5], ARGV[2])
if holder then
  local token, deadline = holder:match('^(.*) (%d+)$')
  if tonumber(deadline) > now then
    if token ~= ARGV[3] then return 'claimed' end
    -- Our own claim, sent again since its answer was lost: the same attempt.
    return tonumber(redis.call('HGET', KEYS[6], ARGV[2]) or 1)
  end
end
redis.call('HSET', KEYS[5], ARGV[2], ARGV[3] .. ' ' .. (now + ARGV[4]))
redis.call('ZADD', KEYS[4], now + ARGV[4], ARGV[2])
redis.call('ZADD', KEYS[7], now + ARGV[4], ARGV[1] .. ':' .. ARGV[2])
redis.call('HSETNX', KEYS[2], 'started_at', time[1] .. '.' .. string.format('%06d', time[2]))
return redis.call('HINCRBY', KEYS[6], ARGV[2], 1)
