-- Forgets a pool that is of this identity.
--
-- ARGV: identity epoch
-- Returns {"OK"}, {"STALE", epoch of the owner} or {"LOST", reason}.
local pool, stale = owner(ARGV[2])
if stale then return stale end
if pool[1] and pool[1] ~= ARGV[1] then return {'LOST', 'of another identity'} end
redis.call('UNLINK', unpack(KEYS))
return {'OK'}
