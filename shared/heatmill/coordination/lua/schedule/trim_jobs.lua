-- Keep the newest of a tenant's jobs in its list, and note from which one on it is complete; where it is a little longer
-- than it may be, it stays.
-- KEYS: the list, its floor
-- ARGV: most entries
if redis.call('ZCARD', KEYS[1]) <= 1.1 * ARGV[1] then return end
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -ARGV[1] - 1)
if redis.call('EXISTS', KEYS[2]) == 1 then redis.call('SET', KEYS[2], redis.call('ZRANGE', KEYS[1], 0, 0)[1]) end
