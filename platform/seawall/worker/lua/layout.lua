-- The heartbeats of the workers, under the root KEYS[1]; all keys share its hash tag.
--
--   <root>:names        zset: name of a worker -> when its heartbeat ends, in microseconds of the server's clock
--   <root>:beat:<name>  string: what the worker says of itself, JSON; it expires with the heartbeat
--
-- A worker that is killed says nothing any more and is forgotten by itself.

local root = KEYS[1]

local function now()
    local time = redis.call('TIME')
    return tonumber(time[1]) * 1000000 + tonumber(time[2])
end
