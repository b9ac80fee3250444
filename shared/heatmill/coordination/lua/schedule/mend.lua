-- Put jobs where they belong, whatever was forgotten of that. Answers what `look` says of each, in order.
-- KEYS: -
-- ARGV: names
local states = {}
for place, job in ipairs(ARGV) do
  states[place] = look(job)
  if states[place] == 'complete' or states[place] == 'ending' then redis.call('ZADD', 'heatmill:changed', 'NX', 0, job) end
  local inflight = redis.call('ZRANGE', of(job, 'inflight'), 0, -1, 'WITHSCORES')
  for entry = 1, #inflight, 2 do
    redis.call('ZADD', 'heatmill:outstanding', 'NX', inflight[entry + 1], job .. ':' .. inflight[entry])
  end
end
return states
