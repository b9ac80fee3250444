-- The next shard of one job, whoever else waits.
-- KEYS: -
-- ARGV: name, patience in ms, token of this call
local key = of(ARGV[1], 'job')
-- This call, sent again since its answer was lost: the same shard, which nobody has been asked to explain yet.
local token, answered = (redis.call('HGET', key, 'taken') or ''):match('^(.*) (%d+)$')
if token == ARGV[3] then return tonumber(answered) end
local shard = take(ARGV[1], ARGV[2])
if shard then redis.call('HSET', key, 'taken', ARGV[3] .. ' ' .. shard) end
return shard or false
