-- KEYS: streams of channels. ARGV: PUBLISH or SPUBLISH, then what to tell each channel. Keeps nothing.
for c = 1, #KEYS do redis.call(ARGV[1], KEYS[c], ARGV[c + 1]) end
return #KEYS
