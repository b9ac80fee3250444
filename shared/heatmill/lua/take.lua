-- The next shard to send: one whose deadline has passed, else the next that was never sent.
-- KEYS: open, job, committed, inflight, claims, attempts, turns
-- ARGV: name, patience in ms, token of this call, the turn that the caller saw last (empty: it has not looked)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local shards = redis.call('HGET', KEYS[2], 'shards')
if not shards or redis.call('HEXISTS', KEYS[2], 'cancelled') == 1 then return false end

-- This call, sent again since its answer was lost: the same shard, which nobody has been asked to explain yet.
local token, answered = (redis.call('HGET', KEYS[2], 'taken') or ''):match('^(.*) (%d+)$')
if token == ARGV[3] then return tonumber(answered) end

-- Somebody has sent a shard since the caller counted what is outstanding: its count no longer holds.
if ARGV[4] ~= '' and ARGV[4] ~= (redis.call('HGET', KEYS[7], '/') or '0') then return 'overtaken' end

local function taken(number)
  local turn = redis.call('HINCRBY', KEYS[7], '/', 1)
  -- After a wipe turns go on above those before it: none is mistaken for an old one.
  if turn == 1 then turn = now end
  redis.call('HSET', KEYS[7], '/', turn, ARGV[1]:match('^.-/'), turn, ARGV[1], turn)
  redis.call('ZADD', KEYS[4], now + ARGV[2], number)
  redis.call('HSET', KEYS[2], 'taken', ARGV[3] .. ' ' .. number)
  return tonumber(number)
end

while true do
  local late = redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', now, 'LIMIT', 0, 1)[1]
  if not late then break end
  if redis.call('GETBIT', KEYS[3], late) == 0 then return taken(late) end
  redis.call('ZREM', KEYS[4], late)
end

local cursor = tonumber(redis.call('HGET', KEYS[2], 'cursor') or 0)
while cursor < tonumber(shards) do
  local number = cursor
  cursor = cursor + 1
  if redis.call('GETBIT', KEYS[3], number) == 0 and not redis.call('ZSCORE', KEYS[4], number) then
    redis.call('HSET', KEYS[2], 'cursor', cursor)
    return taken(number)
  end
end
redis.call('HSET', KEYS[2], 'cursor', cursor)

-- The map comes after all shards, and its number after theirs.
local map = tonumber(shards)
if redis.call('HEXISTS', KEYS[2], 'map') == 0 or redis.call('GETBIT', KEYS[3], map) == 1 then return false end
if redis.call('BITCOUNT', KEYS[3]) < map or redis.call('ZSCORE', KEYS[4], map) then return false end
return taken(map)
