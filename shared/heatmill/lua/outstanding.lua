-- Shards that were sent or are at work, and whose deadline has not passed.
local time = redis.call('TIME')
return redis.call('ZCOUNT', KEYS[4], time[1] * 1000 + math.floor(time[2] / 1000), '+inf')
