-- Ends a term at once, and wakes one who waits for that; changes nothing if another term has begun.
--
-- KEYS: lease epoch released
-- ARGV: leader epoch milliseconds
-- Returns {"OK"}.
local leader, epoch = unpack(redis.call('HMGET', KEYS[1], 'leader', 'epoch'))
if leader ~= ARGV[1] or epoch ~= ARGV[2] then return {'OK'} end
redis.call('UNLINK', KEYS[1])
-- A renewal that is still on its way would bring the lease back, if its epoch were the last one.
redis.call('INCR', KEYS[2])
redis.call('RPUSH', KEYS[3], epoch)
redis.call('PEXPIRE', KEYS[3], ARGV[3])
return {'OK'}
