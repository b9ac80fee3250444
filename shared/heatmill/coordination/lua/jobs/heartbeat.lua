-- Prolong a claim. A claim that Redis has forgotten (it was wiped) is written anew once repair knows the job again:
-- going on is safe, since the commit record is write-once.
-- ARGV: name, shard, token, time in ms
if redis.call('EXISTS', KEYS[2]) == 0 then return 1 end
if redis.call('HEXISTS', KEYS[2], 'cancelled') == 1 then return 0 end
-- Another worker's commit ends this one's work too; and what is committed must not look as if it were at work.
if redis.call('GETBIT', KEYS[3], ARGV[2]) == 1 then return 0 end
local holder = redis.call('HGET', KEYS[5], ARGV[2])
if holder and holder:match('^(.*) %d+$') ~= ARGV[3] then return 0 end
local time = redis.call('TIME')
local deadline = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[4]
redis.call('HSET', KEYS[5], ARGV[2], ARGV[3] .. ' ' .. deadline)
redis.call('ZADD', KEYS[4], deadline, ARGV[2])
redis.call('ZADD', KEYS[7], deadline, ARGV[1] .. ':' .. ARGV[2])
return 1
