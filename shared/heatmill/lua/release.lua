-- Give a shard back, uncounted; it is sent again when its new deadline has passed.
-- ARGV: name, shard, token, time in ms
local holder = redis.call('HGET', KEYS[5], ARGV[2])
if not holder or holder:match('^(.*) %d+$') ~= ARGV[3] then return 0 end
local time = redis.call('TIME')
redis.call('HDEL', KEYS[5], ARGV[2])
redis.call('HINCRBY', KEYS[6], ARGV[2], -1)
redis.call('ZADD', KEYS[4], time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[4], ARGV[2])
return 1
