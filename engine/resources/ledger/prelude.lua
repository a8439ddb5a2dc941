-- Stands in front of every script of the ledger.
--
-- KEYS: meta blocks index cached expires, of one pool. A block's record is its holders, "|" and its hash:
--
--     held "7|"    held and published "7,9|hash"    cached "|hash"    free: none
local META, BLOCKS, INDEX, CACHED, EXPIRES = unpack(KEYS)

-- Lua's stack bounds the arguments of one call. Even, so that pairs stay together.
local WIDTH = 4000

-- Calls a command on a key with all arguments of the list, if there are any.
local function call_with(command, key, list)
  for first = 1, #list, WIDTH do
    redis.call(command, key, unpack(list, first, math.min(first + WIDTH - 1, #list)))
  end
end

-- The holders, separated by commas, and the hash of a record; each may be empty.
local function split(record)
  local bar = string.find(record, '|', 1, true)
  return string.sub(record, 1, bar - 1), string.sub(record, bar + 1)
end

-- {identity, epoch, num_blocks} of the pool, each false if there is none; and an answer to a stale epoch.
local function owner(epoch)
  local pool = redis.call('HMGET', META, 'identity', 'epoch', 'num_blocks')
  return pool, pool[2] and tonumber(pool[2]) > tonumber(epoch) and {'STALE', pool[2]}
end

-- Redis keeps a small hash as a list that every look-up walks. One long value makes it a table from the start.
local MARK = 'Written by the KV-block ledger of Quire. Every other field is described in prelude.lua.'
local function mark()
  redis.call('HSET', BLOCKS, '', MARK)
  redis.call('HSET', INDEX, '', MARK)
end

-- The whole pool, each key as a flat list of fields and values.
local function everything()
  return {
    'OK',
    redis.call('HGETALL', META),
    redis.call('HGETALL', BLOCKS),
    redis.call('HGETALL', INDEX),
    redis.call('ZRANGE', CACHED, 0, -1, 'WITHSCORES'),
    redis.call('HGETALL', EXPIRES),
  }
end
