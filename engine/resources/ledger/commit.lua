-- Applies one LedgerTransaction to a pool, all or nothing: load what it names, replay it on local tables with
-- every rule checked, store the tables. Cost: a dozen bulk commands, whatever the number of sequences.
--
-- KEYS: meta refs hashes index holds cached
-- ARGV: identity epoch n_publish n_release n_evict n_share n_acquire, then the items flat:
--       publish (block hash)*  release (holder block rank)*  evict (block)*  share (holder block)*
--       acquire (holder block)*
-- Returns {"OK"} or {"STALE"|"LOST"|"CONFLICT", reason}.
local meta, refs_key, hashes_key, index_key, holds_key, cached_key = unpack(KEYS)

local pool = redis.call('HMGET', meta, 'identity', 'epoch', 'num_blocks')
if pool[2] and tonumber(pool[2]) > tonumber(ARGV[2]) then return {'STALE', pool[2]} end
if pool[1] ~= ARGV[1] or pool[2] ~= ARGV[2] then return {'LOST', 'not opened by epoch ' .. ARGV[2]} end
local num_blocks = tonumber(pool[3])

-- Lua's stack bounds the arguments of one call.
local WIDTH = 4000
local function in_slices(list, call)
  for first = 1, #list, WIDTH do call(first, math.min(first + WIDTH - 1, #list)) end
end

local function load(key, fields)
  local values = {}
  in_slices(fields, function(first, last)
    local found = redis.call('HMGET', key, unpack(fields, first, last))
    for i = first, last do values[fields[i]] = found[i - first + 1] end
  end)
  return values
end

-- What the transaction names.
local sections, at = {}, 8
for section, width in ipairs({2, 3, 1, 2, 2}) do
  local items = {}
  for _ = 1, tonumber(ARGV[2 + section]) do
    items[#items + 1] = {ARGV[at], ARGV[at + 1], ARGV[at + 2]}
    at = at + width
  end
  sections[section] = items
end
local publish, release, evict, share, acquire = unpack(sections)

local blocks, names, fields, seen = {}, {}, {}, {}
local function name_block(block)
  if not seen[block] then seen[block] = true; blocks[#blocks + 1] = block end
end
local function name_hold(item)
  name_block(item[2])
  item.field = item[1] .. '/' .. item[2]
  fields[#fields + 1] = item.field
end
for _, item in ipairs(publish) do name_block(item[1]); names[#names + 1] = item[2] end
for _, item in ipairs(release) do name_hold(item) end
for _, item in ipairs(evict) do name_block(item[1]) end
for _, item in ipairs(share) do name_hold(item) end
for _, item in ipairs(acquire) do name_hold(item) end

local refs, hashes = load(refs_key, blocks), load(hashes_key, blocks)
local index, holds = load(index_key, names), load(holds_key, fields)
for block, count in pairs(refs) do refs[block] = tonumber(count or 0) end
local ranks, changed_hashes, changed_index = {}, {}, {}

-- Replay. Error objects unwind to the pcall below before anything was written.
local function require_that(condition, action, block, reason)
  if not condition then error({'cannot ' .. action .. ' block ' .. block .. ': ' .. reason}) end
end
local function hold(item, action)
  require_that(not holds[item.field], action, item[2], 'held by ' .. item[1] .. ' already')
  holds[item.field] = '1'
  refs[item[2]] = refs[item[2]] + 1
end
local ok, problem = pcall(function()
  for _, item in ipairs(publish) do
    local block, name = item[1], item[2]
    require_that(refs[block] > 0, 'publish', block, 'not held')
    require_that(not hashes[block], 'publish', block, 'published already')
    require_that(not index[name], 'publish', block, 'its hash names another block')
    hashes[block], index[name] = name, block
    changed_hashes[block], changed_index[name] = name, block
  end
  for _, item in ipairs(release) do
    local block = item[2]
    require_that(holds[item.field], 'release', block, 'not held by ' .. item[1])
    holds[item.field] = false
    refs[block] = refs[block] - 1
    if refs[block] == 0 and hashes[block] then ranks[block] = item[3] end
  end
  for _, item in ipairs(evict) do
    local block = item[1]
    local name = hashes[block]
    require_that(name and refs[block] == 0, 'evict', block, 'not cached')
    hashes[block], index[name], ranks[block] = false, false, false
    changed_hashes[block], changed_index[name] = false, false
  end
  for _, item in ipairs(share) do
    require_that(hashes[item[2]], 'share', item[2], 'not published')
    hold(item, 'share')
    ranks[item[2]] = false
  end
  for _, item in ipairs(acquire) do
    local block = tonumber(item[2])
    require_that(block >= 0 and block < num_blocks, 'acquire', item[2], 'no such block')
    require_that(refs[item[2]] == 0 and not hashes[item[2]], 'acquire', item[2], 'not free')
    hold(item, 'acquire')
  end
end)
if not ok then
  if type(problem) == 'table' then return {'CONFLICT', problem[1]} end
  error(problem)
end

-- Store. `false` and 0 mean absent.
local function store(key, values, set, delete, swap)
  local present, absent = {}, {}
  for field, value in pairs(values) do
    if value and value ~= 0 then
      present[#present + 1] = swap and value or field
      present[#present + 1] = swap and field or value
    else
      absent[#absent + 1] = field
    end
  end
  in_slices(present, function(first, last) redis.call(set, key, unpack(present, first, last)) end)
  in_slices(absent, function(first, last) redis.call(delete, key, unpack(absent, first, last)) end)
end
store(refs_key, refs, 'HSET', 'HDEL')
store(hashes_key, changed_hashes, 'HSET', 'HDEL')
store(index_key, changed_index, 'HSET', 'HDEL')
store(holds_key, holds, 'HSET', 'HDEL')
store(cached_key, ranks, 'ZADD', 'ZREM', true)
return {'OK'}
