-- A job's fields, how many shards are committed, how many claims are alive, and how many shards were sent or are at work
-- and their deadline has not passed.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local fields = redis.call('HGETALL', KEYS[2])
if #fields == 0 then return false end
local working = 0
for _, holder in ipairs(redis.call('HVALS', KEYS[5])) do
  if tonumber(holder:match(' (%d+)$')) > now then working = working + 1 end
end
return {fields, redis.call('BITCOUNT', KEYS[3]), working, redis.call('ZCOUNT', KEYS[4], now, '+inf')}
