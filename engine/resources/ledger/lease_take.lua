-- Makes the caller the leader of a new term, if nobody is, if it is already, or if the leader has not renewed its
-- lease since the caller saw it.
--
-- KEYS: lease epoch
-- ARGV: leader milliseconds above max_epoch seen_leader seen_beat
-- Returns {"TAKEN", epoch} or {"HELD", leader, epoch, beat, milliseconds of the lease, milliseconds left}.
local leader, epoch, beat, length = unpack(redis.call('HMGET', KEYS[1], 'leader', 'epoch', 'beat', 'milliseconds'))
local is_abandoned = leader == ARGV[5] and beat == ARGV[6]
if leader and leader ~= ARGV[1] and not is_abandoned then
  return {'HELD', leader, epoch, beat, length, tostring(redis.call('PTTL', KEYS[1]))}
end
local last = math.max(tonumber(redis.call('GET', KEYS[2]) or 0), tonumber(epoch or 0), tonumber(ARGV[3]))
local next = string.format('%.0f', math.min(last + 1, tonumber(ARGV[4])))
redis.call('SET', KEYS[2], next)
redis.call('HSET', KEYS[1], 'leader', ARGV[1], 'epoch', next, 'beat', 0, 'milliseconds', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return {'TAKEN', next}
