-- Stop a job that is known. One that Redis has forgotten is not half created here: repair reads the marker.
if redis.call('EXISTS', KEYS[2]) == 0 then return 0 end
redis.call('ZADD', 'heatmill:changed', 0, ARGV[1])
return redis.call('HSET', KEYS[2], 'cancelled', '1')
