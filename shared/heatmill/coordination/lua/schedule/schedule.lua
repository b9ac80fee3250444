-- Which job is next: stands before each script of this folder. A cluster of Redis would refuse these keys; see `keys`.
--
-- heatmill:ready:<kind>            tenants that have jobs of this kind to serve, by their last turn
-- heatmill:ready:<kind>:<tenant>   those jobs, by their last turn; a kind is a priority's step, or `plan`
-- heatmill:turns:<explain | plan>  when each tenant was last served, also while it has nothing to serve
-- heatmill:outstanding             shards that were sent or are at work, by deadline, as `<tenant>/<job>:<shard>`
-- heatmill:changed                 jobs to look at, by the time from when on
-- heatmill:workers                 explain workers, by the time until which each is taken to live

local STEPS = {'0', '3', '6'}
local PLAN = 'plan'
-- A job, or a tenant, that was never served goes before all that were served within so many turns, and not for ever.
local HEAD_START = 1000
-- Whose turns are remembered while they have nothing to serve.
local TENANTS = 10000
-- Turns count from the milliseconds of the clock on, so that after a wipe they are above those before it.
local SHARDS_PER_WORKER = 2

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function of(job, name) return 'heatmill:{' .. job .. '}:' .. name end
local function tenant_of(job) return job:match('^(.-)/') end
local function memory(kind) return 'heatmill:turns:' .. (kind == PLAN and PLAN or 'explain') end
local function last_turn() return tonumber(redis.call('GET', 'heatmill:turn') or 0) end
local function next_turn()
  local turn = redis.call('INCR', 'heatmill:turn')
  if turn == 1 then
    turn = now
    redis.call('SET', 'heatmill:turn', turn)
  end
  return turn
end

-- Let a job wait for its turns of a kind; one that waits keeps its place.
local function offer(job, kind)
  local tenant, queue = tenant_of(job), 'heatmill:ready:' .. kind
  local early = last_turn() - HEAD_START
  local turn = tonumber(redis.call('HGET', of(job, 'job'), 'turn:' .. kind) or early)
  redis.call('ZADD', queue .. ':' .. tenant, 'NX', math.max(turn, early), job)
  local served = tonumber(redis.call('ZSCORE', memory(kind), tenant) or early)
  redis.call('ZADD', queue, 'NX', math.max(served, early), tenant)
end

local function withdraw(job, kind)
  local tenant, queue = tenant_of(job), 'heatmill:ready:' .. kind
  if redis.call('ZREM', queue .. ':' .. tenant, job) == 1 and redis.call('EXISTS', queue .. ':' .. tenant) == 0 then
    redis.call('ZREM', queue, tenant)
  end
end

local function withdraw_from_all(job)
  for _, step in ipairs(STEPS) do withdraw(job, step) end
  withdraw(job, PLAN)
end

-- Note that a job, and with it its tenant, was served.
local function serve(job, kind)
  local tenant, turn = tenant_of(job), next_turn()
  redis.call('ZADD', memory(kind), turn, tenant)
  redis.call('ZREMRANGEBYRANK', memory(kind), 0, -TENANTS - 1)
  redis.call('HSET', of(job, 'job'), 'turn:' .. kind, turn)
  for _, step in ipairs(kind == PLAN and {PLAN} or STEPS) do
    redis.call('ZADD', 'heatmill:ready:' .. step, 'XX', turn, tenant)
    redis.call('ZADD', 'heatmill:ready:' .. step .. ':' .. tenant, 'XX', turn, job)
  end
end

-- The next shard of a job that may be sent: one whose deadline has passed, else the next that was never sent, else the
-- map, which comes after all shards, with the number after theirs.
local function next_shard(job)
  local fields = redis.call('HMGET', of(job, 'job'), 'shards', 'cancelled', 'cursor', 'map')
  local shards = tonumber(fields[1] or nil)
  if not shards or fields[2] then return nil end
  local inflight, committed = of(job, 'inflight'), of(job, 'committed')
  while true do
    local late = redis.call('ZRANGEBYSCORE', inflight, '-inf', now, 'LIMIT', 0, 1)[1]
    if not late then break end
    if redis.call('GETBIT', committed, late) == 0 then return tonumber(late) end
    redis.call('ZREM', inflight, late)
  end
  local cursor = tonumber(fields[3] or 0)
  local from = cursor
  while cursor < shards do
    if redis.call('GETBIT', committed, cursor) == 0 and not redis.call('ZSCORE', inflight, cursor) then break end
    cursor = cursor + 1
  end
  if cursor > from then redis.call('HSET', of(job, 'job'), 'cursor', cursor) end
  if cursor < shards then return cursor end
  if not fields[4] or redis.call('GETBIT', committed, shards) == 1 then return nil end
  if redis.call('BITCOUNT', committed) < shards or redis.call('ZSCORE', inflight, shards) then return nil end
  return shards
end

local function step_of(job) return redis.call('HGET', of(job, 'job'), 'step') or '3' end

-- Take the next shard of a job, mark it as sent until the patience is over, and note the job's turn.
local function take(job, patience)
  local shard = next_shard(job)
  local step = step_of(job)
  if shard then
    redis.call('ZADD', of(job, 'inflight'), now + patience, shard)
    redis.call('ZADD', 'heatmill:outstanding', now + patience, job .. ':' .. shard)
    serve(job, step)
  end
  if not shard or not next_shard(job) then withdraw(job, step) end
  return shard
end

local function claims_alive(job)
  for _, holder in ipairs(redis.call('HVALS', of(job, 'claims'))) do
    if tonumber(holder:match(' (%d+)$')) > now then return true end
  end
  return false
end

-- Let a job wait where it belongs, by its fields.
-- Answers `unknown`, `unplanned`, `ending` (cancelled, and still at work), `complete` or `open`.
local function look(job)
  local fields = redis.call('HMGET', of(job, 'job'), 'succeeded', 'shards', 'cancelled', 'map')
  if not fields[1] then
    withdraw_from_all(job)
    return 'unknown'
  end
  if fields[3] then
    withdraw_from_all(job)
    return claims_alive(job) and 'ending' or 'complete'
  end
  if not fields[2] then
    offer(job, PLAN)
    return 'unplanned'
  end
  withdraw(job, PLAN)
  local units = tonumber(fields[2]) + (fields[4] and 1 or 0)
  if redis.call('BITCOUNT', of(job, 'committed')) >= units then
    withdraw_from_all(job)
    return 'complete'
  end
  if next_shard(job) then offer(job, step_of(job)) end
  return 'open'
end

-- How many shards may be outstanding: as many as an operator says, or more where more workers live.
local function window(least)
  local workers = redis.call('ZCOUNT', 'heatmill:workers', '(' .. now, '+inf')
  return math.max(tonumber(least), SHARDS_PER_WORKER * workers)
end

