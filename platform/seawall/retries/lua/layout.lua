-- One hash per task name, "seawall:{retries:<task>}", of what happened in the last minute:
--
--   <slot>:f   first attempts that began in the slot, as far as processes have reported them
--   <slot>:r   retries granted in it
--
-- A slot is ten seconds of the server's clock; six of them are looked at, and the hash ends with the last.
local SLOT = 10
local SLOTS = 6
local slot = math.floor(tonumber(redis.call('TIME')[1]) / SLOT)
