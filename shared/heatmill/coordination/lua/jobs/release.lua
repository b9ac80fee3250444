-- Give a shard back; it is sent again when its new deadline has passed.
-- ARGV: name, shard, token, time in ms, whether the attempt counts
local holder = redis.call('HGET', KEYS[5], ARGV[2])
if not holder or holder:match('^(.*) %d+$') ~= ARGV[3] then return 0 end
local time = redis.call('TIME')
redis.call('HDEL', KEYS[5], ARGV[2])
-- A claim that outlived a wipe of Redis was never counted.
if ARGV[5] == '0' and tonumber(redis.call('HGET', KEYS[6], ARGV[2]) or 0) > 0 then redis.call('HINCRBY', KEYS[6], ARGV[2], -1) end
local deadline = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[4]
redis.call('ZADD', KEYS[4], deadline, ARGV[2])
redis.call('ZADD', KEYS[7], deadline, ARGV[1] .. ':' .. ARGV[2])
-- A cancelled job waits for its last claim to end.
if redis.call('HEXISTS', KEYS[2], 'cancelled') == 1 then redis.call('ZADD', 'heatmill:changed', 0, ARGV[1]) end
return 1
