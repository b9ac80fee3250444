-- Whether a new job need not wait for a turn: the window is not full of its priority, and no other job of it waits.
-- Where it must, it waits from now on, so that the next one sees that somebody does.
-- KEYS: -
-- ARGV: name, least window, lists of the queue for its priority
local function somebody_waits()
  -- Where nobody feeds, it would wait in vain.
  if redis.call('EXISTS', 'heatmill:fed') == 0 then return false end
  local queue = 'heatmill:ready:' .. step_of(ARGV[1])
  local tenants = redis.call('ZRANGE', queue, 0, 1)
  if #tenants == 0 then return false end
  if #tenants > 1 or tenants[1] ~= tenant_of(ARGV[1]) then return true end
  for _, job in ipairs(redis.call('ZRANGE', queue .. ':' .. tenants[1], 0, 1)) do
    if job ~= ARGV[1] then return true end
  end
  return false
end

local queued = 0
for list = 3, #ARGV do queued = queued + redis.call('LLEN', ARGV[list]) end
if queued < window(ARGV[2]) and not somebody_waits() then return 1 end
look(ARGV[1])
return 0
