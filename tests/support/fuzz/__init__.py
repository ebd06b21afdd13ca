"""The fuzzer of messages: captured real ones, mutated, through real workers, and an account of each.

`capture` records the corpus from real clients, `mutations` changes it, `app` is what the workers run, `arcs`
counts the branches they reach, `account` says what became of each message, `fuzzer` sends them in
rounds to one worker, and `run` does that for every pool.
"""
