-- The jobs to plan next, best first: tenants in turn, of each its first few jobs.
-- KEYS: -
-- ARGV: most tenants, most jobs of each
local jobs = {}
for _, tenant in ipairs(redis.call('ZRANGE', 'heatmill:ready:plan', 0, ARGV[1] - 1)) do
  for _, job in ipairs(redis.call('ZRANGE', 'heatmill:ready:plan:' .. tenant, 0, ARGV[2] - 1)) do
    jobs[#jobs + 1] = job
  end
end
return jobs
