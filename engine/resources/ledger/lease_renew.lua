-- Holds a term's lease for another while. One that expired or was lost with Redis's memory is taken back, unless
-- another term has begun since.
--
-- KEYS: lease epoch
-- ARGV: leader epoch milliseconds
-- Returns {"OK"} or {"LOST", last epoch, leader}.
local leader, epoch = unpack(redis.call('HMGET', KEYS[1], 'leader', 'epoch'))
local last = tonumber(redis.call('GET', KEYS[2]) or 0)
local is_ours = leader == ARGV[1] and epoch == ARGV[2]
local may_return = not leader and last <= tonumber(ARGV[2])
if not is_ours and not may_return then return {'LOST', string.format('%.0f', last), leader or 'nobody'} end
if last < tonumber(ARGV[2]) then redis.call('SET', KEYS[2], ARGV[2]) end
redis.call('HSET', KEYS[1], 'leader', ARGV[1], 'epoch', ARGV[2], 'milliseconds', ARGV[3])
redis.call('HINCRBY', KEYS[1], 'beat', 1)
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {'OK'}
