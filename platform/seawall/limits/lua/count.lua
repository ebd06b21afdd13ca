-- How many shares of a key are held by living holders. ARGV: key.
return (take_back(ROOT .. ':' .. ARGV[1]))
