-- Replaces whatever is there of a pool.
--
-- ARGV: identity epoch num_blocks step, then for each key but meta its fields and values (cached: ranks and
--       blocks), packed into one argument as strings behind their lengths in four bytes: the server bounds the
--       number of arguments.
-- Returns {"OK"} or {"STALE", epoch of the owner}.
local _, stale = owner(ARGV[2])
if stale then return stale end
redis.call('UNLINK', unpack(KEYS))
local meta = {'identity', ARGV[1], 'epoch', ARGV[2], 'num_blocks', ARGV[3], 'step', ARGV[4], 'step_epoch', ARGV[2]}
redis.call('HSET', META, unpack(meta))
mark()
for i = 2, #KEYS do
  local packed, list, at = ARGV[i + 3], {}, 1
  while at <= #packed do
    list[#list + 1], at = struct.unpack('>I4c0', packed, at)
  end
  call_with(KEYS[i] == CACHED and 'ZADD' or 'HSET', KEYS[i], list)
end
return {'OK'}
