-- Note that a job is planned now. A tenant's jobs are planned one after the other: one that has begun keeps its place
-- behind those that are new, unless it could not go on.
-- KEYS: -
-- ARGV: name, whether the job goes to the end
local tenant = tenant_of(ARGV[1])
local had_turn = redis.call('HGET', of(ARGV[1], 'job'), 'turn:plan')
if redis.call('EXISTS', of(ARGV[1], 'job')) == 0 then return end
serve(ARGV[1], PLAN)
if had_turn and ARGV[2] == '0' then
  redis.call('HSET', of(ARGV[1], 'job'), 'turn:plan', had_turn)
  redis.call('ZADD', 'heatmill:ready:plan:' .. tenant, 'XX', had_turn, ARGV[1])
end
