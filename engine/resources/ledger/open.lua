-- Takes a pool over for an epoch and drops every hold; a pool of another identity is emptied first.
--
-- KEYS: meta refs hashes index holds cached
-- ARGV: identity epoch num_blocks
-- Returns {"OK"} or {"STALE", epoch of the owner}.
local meta, refs_key, hashes_key, _, holds_key, cached_key = unpack(KEYS)

local pool = redis.call('HMGET', meta, 'identity', 'epoch')
if pool[2] and tonumber(pool[2]) > tonumber(ARGV[2]) then return {'STALE', pool[2]} end
if pool[1] ~= ARGV[1] then
  for _, key in ipairs(KEYS) do redis.call('DEL', key) end
end
redis.call('HSET', meta, 'identity', ARGV[1], 'epoch', ARGV[2], 'num_blocks', ARGV[3])

-- Held and published blocks become cached, behind those that are, by number.
local highest = redis.call('ZREVRANGE', cached_key, 0, 0, 'WITHSCORES')
local rank = highest[2] and tonumber(highest[2]) or 0
local held = redis.call('HKEYS', refs_key)
table.sort(held, function(left, right) return tonumber(left) < tonumber(right) end)
for _, block in ipairs(held) do
  if redis.call('HEXISTS', hashes_key, block) == 1 then
    rank = rank + 1
    redis.call('ZADD', cached_key, string.format('%.0f', rank), block)
  end
end
redis.call('DEL', refs_key, holds_key)
return {'OK'}
