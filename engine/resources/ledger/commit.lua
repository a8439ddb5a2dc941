-- Applies one LedgerTransaction to a pool, all or nothing: load the records that it names, replay it on them with
-- every rule checked, store them. Cost: a few bulk commands, whatever the number of sequences.
--
-- ARGV: identity epoch step n_publish n_release n_evict n_share n_acquire, then the items flat:
--       publish (block hash)*  release (holder block rank expires)*  evict (block)*  share (holder block)*
--       acquire (holder block)*
-- Returns {"OK"} or {"STALE"|"LOST"|"CONFLICT", reason}.
local pool, stale = owner(ARGV[2])
if stale then return stale end
if pool[1] ~= ARGV[1] or pool[2] ~= ARGV[2] then return {'LOST', 'not opened by epoch ' .. ARGV[2]} end
local num_blocks = tonumber(pool[3])

-- Where each section of the items begins.
local publish = 9
local release = publish + 2 * ARGV[4]
local evict = release + 4 * ARGV[5]
local share = evict + ARGV[6]
local acquire = share + 2 * ARGV[7]

-- What the transaction names, as it is now; then, as the replay goes on, as it will be. `false` where there is none.
local records, index, ranks, expires = {}, {}, {}, {}

local function load(values, key, fields)
  for first = 1, #fields, WIDTH do
    local last = math.min(first + WIDTH - 1, #fields)
    local found = redis.call('HMGET', key, unpack(fields, first, last))
    for i = first, last do values[fields[i]] = found[i - first + 1] end
  end
end

local blocks, names = {}, {}
for i = publish, release - 1, 2 do
  blocks[#blocks + 1] = ARGV[i]
  names[#names + 1] = ARGV[i + 1]
end
for i = release + 1, evict - 1, 4 do blocks[#blocks + 1] = ARGV[i] end
for i = evict, share - 1 do blocks[#blocks + 1] = ARGV[i] end
for i = share + 1, #ARGV, 2 do blocks[#blocks + 1] = ARGV[i] end
load(records, BLOCKS, blocks)
load(index, INDEX, names)

-- Replay.
local function conflict(action, block, reason)
  return {'CONFLICT', 'cannot ' .. action .. ' block ' .. block .. ': ' .. reason}
end

local function is_among(holders, holder)
  return holders == holder or string.find(',' .. holders .. ',', ',' .. holder .. ',', 1, true)
end

-- The cache group that each says, as holder.py and prefix.py write it.
local function group_of_holder(holder)
  return tonumber(string.match(holder, '%.(%d+)$') or 0)
end

local function group_of_hash(name)
  return string.byte(name, 17) or 0
end

local function without(holders, holder)
  local others = {}
  for other in string.gmatch(holders, '[^,]+') do
    if other ~= holder then others[#others + 1] = other end
  end
  return table.concat(others, ',')
end

for i = publish, release - 1, 2 do
  local block, name = ARGV[i], ARGV[i + 1]
  local holders, published = split(records[block] or '|')
  if holders == '' then return conflict('publish', block, 'not held') end
  if published ~= '' then return conflict('publish', block, 'published already') end
  if index[name] then return conflict('publish', block, 'its hash names another block') end
  records[block], index[name] = holders .. '|' .. name, block
end
for i = release, evict - 1, 4 do
  local holder, block = ARGV[i], ARGV[i + 1]
  local holders, name = split(records[block] or '|')
  if not is_among(holders, holder) then return conflict('release', block, 'not held by ' .. holder) end
  holders = without(holders, holder)
  records[block] = (holders ~= '' or name ~= '') and holders .. '|' .. name
  if holders == '' and name ~= '' then
    ranks[block] = ARGV[i + 2]
    if ARGV[i + 3] ~= '0' then expires[block] = ARGV[i + 3] end
  end
end
for i = evict, share - 1 do
  local block = ARGV[i]
  local holders, name = split(records[block] or '|')
  if holders ~= '' or name == '' then return conflict('evict', block, 'not cached') end
  records[block], index[name], ranks[block], expires[block] = false, false, false, false
end
for i = share, acquire - 1, 2 do
  local holder, block = ARGV[i], ARGV[i + 1]
  local holders, name = split(records[block] or '|')
  if name == '' then return conflict('share', block, 'not published') end
  if group_of_hash(name) ~= group_of_holder(holder) then return conflict('share', block, 'of another cache group') end
  if is_among(holders, holder) then return conflict('share', block, 'held by ' .. holder .. ' already') end
  records[block] = (holders == '' and holder or holders .. ',' .. holder) .. '|' .. name
  ranks[block], expires[block] = false, false
end
for i = acquire, #ARGV, 2 do
  local block = ARGV[i + 1]
  local number = tonumber(block)
  if number < 0 or number >= num_blocks then return conflict('acquire', block, 'no such block') end
  if records[block] then return conflict('acquire', block, 'not free') end
  records[block] = ARGV[i] .. '|'
end

-- Store.
local function store(key, values, set, delete)
  local present, absent = {}, {}
  for field, value in pairs(values) do
    if value then
      local first, second = field, value
      if set == 'ZADD' then first, second = value, field end
      present[#present + 1] = first
      present[#present + 1] = second
    else
      absent[#absent + 1] = field
    end
  end
  call_with(set, key, present)
  call_with(delete, key, absent)
end
store(BLOCKS, records, 'HSET', 'HDEL')
store(INDEX, index, 'HSET', 'HDEL')
store(CACHED, ranks, 'ZADD', 'ZREM')
store(EXPIRES, expires, 'HSET', 'HDEL')
if ARGV[3] ~= '0' then redis.call('HSET', META, 'step', ARGV[3], 'step_epoch', ARGV[2]) end
return {'OK'}
