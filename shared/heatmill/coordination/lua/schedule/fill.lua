-- Choose the shards to send next, until the window is full: by priority, then tenants in turn, then a tenant's jobs in
-- turn. One script: nobody else can count, or take, at the same time. Answers JSON: shards, and jobs that are complete.
-- KEYS: -
-- ARGV: token of this call, least window, patience in ms, most shards, most complete jobs, how long those are not told
--       again in ms, how long this call counts as feeding in ms, lists of the queue
local LOOKS = 1000

-- This call, sent again since its answer was lost: the same shards, which nobody has been asked to explain yet.
local answer_key = 'heatmill:filled:' .. ARGV[1]
local answered = redis.call('GET', answer_key)
if answered then return answered end

for _, entry in ipairs(redis.call('ZRANGEBYSCORE', 'heatmill:outstanding', '-inf', now, 'LIMIT', 0, LOOKS)) do
  redis.call('ZREM', 'heatmill:outstanding', entry)
  look(entry:match('^(.*):'))
end

local complete = {}
for _, job in ipairs(redis.call('ZRANGEBYSCORE', 'heatmill:changed', '-inf', now, 'LIMIT', 0, LOOKS)) do
  if #complete >= tonumber(ARGV[5]) then break end
  local state = look(job)
  if state == 'complete' then
    complete[#complete + 1] = job
    redis.call('ZADD', 'heatmill:changed', now + ARGV[6], job)
  elseif state == 'ending' then
    -- Whoever gives its last shard back says so; a worker that died does not.
    redis.call('ZADD', 'heatmill:changed', now + 1000, job)
  else
    redis.call('ZREM', 'heatmill:changed', job)
  end
end

-- What was sent again while no worker took anything lies in the queue twice.
local queued = 0
for list = 8, #ARGV do queued = queued + redis.call('LLEN', ARGV[list]) end
local size, alive = window(ARGV[2]), {'heatmill:outstanding', '(' .. now, '+inf'}
if redis.call('ZCOUNT', unpack(alive)) >= size then
  -- A worker of an earlier version takes what it has committed off its job's own list only.
  for _, entry in ipairs(redis.call('ZRANGEBYSCORE', alive[1], alive[2], alive[3], 'LIMIT', 0, LOOKS)) do
    local job, shard = entry:match('^(.*):(%d+)$')
    if not redis.call('ZSCORE', of(job, 'inflight'), shard) then redis.call('ZREM', 'heatmill:outstanding', entry) end
  end
end
local outstanding = math.max(redis.call('ZCOUNT', unpack(alive)), queued)
local capacity = math.min(size - outstanding, tonumber(ARGV[4]))

local shards = {}
for _, step in ipairs(STEPS) do
  local queue = 'heatmill:ready:' .. step
  while #shards < capacity do
    local tenant = redis.call('ZRANGE', queue, 0, 0)[1]
    if not tenant then break end
    local job = redis.call('ZRANGE', queue .. ':' .. tenant, 0, 0)[1]
    local shard = job and take(job, ARGV[3])
    if shard then shards[#shards + 1] = {job, shard, step} end
    -- Else there would be no end where the two disagree.
    if not job then redis.call('ZREM', queue, tenant) end
  end
end

redis.call('SET', 'heatmill:fed', 1, 'PX', ARGV[7])
-- An empty table may be a list or an object to cjson, so an empty list is left out, and one field is always there.
local answer = cjson.encode({
  outstanding = outstanding,
  shards = #shards > 0 and shards or nil,
  complete = #complete > 0 and complete or nil,
})
if #shards > 0 then redis.call('SET', answer_key, answer, 'PX', 20000) end
return answer
