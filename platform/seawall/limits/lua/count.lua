-- How many shares of a key are held by living holders. ARGV: key.
return (take_back(ARGV[1]))
