-- Takes a pool over for an epoch and drops every hold; a pool of another identity is emptied first.
-- Who wrote the last step stays as it was, so that whoever opens the pool next can judge it, too.
--
-- ARGV: identity epoch num_blocks num_ticks rank, the last that of the default priority at tick 0: rank.py says
--       how ranks are made
-- Returns {"STALE", epoch of the owner} or the pool as snapshot.lua does.
local pool, stale = owner(ARGV[2])
if stale then return stale end
if pool[1] ~= ARGV[1] then redis.call('UNLINK', unpack(KEYS)) end
redis.call('HSET', META, 'identity', ARGV[1], 'epoch', ARGV[2], 'num_blocks', ARGV[3])
mark()

-- Held and published blocks become cached, at the default priority behind all others, by number.
local ranks, tick = redis.call('ZRANGE', CACHED, 0, -1, 'WITHSCORES'), 0
for i = 2, #ranks, 2 do tick = math.max(tick, tonumber(ranks[i]) % tonumber(ARGV[4])) end
local found, dropped, freed = redis.call('HGETALL', BLOCKS), {}, {}
for i = 1, #found, 2 do
  local holders, name = split(found[i] == '' and '|' or found[i + 1])
  if holders ~= '' and name ~= '' then
    dropped[#dropped + 1] = {tonumber(found[i]), '|' .. name}
  elseif holders ~= '' then
    freed[#freed + 1] = found[i]
  end
end
table.sort(dropped, function(left, right) return left[1] < right[1] end)
local cached, records = {}, {}
for _, item in ipairs(dropped) do
  tick = tick + 1
  cached[#cached + 1] = string.format('%.0f', ARGV[5] + tick)
  cached[#cached + 1] = item[1]
  records[#records + 1] = item[1]
  records[#records + 1] = item[2]
end
call_with('ZADD', CACHED, cached)
call_with('HSET', BLOCKS, records)
call_with('HDEL', BLOCKS, freed)
return everything()
