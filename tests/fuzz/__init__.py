"""Looking for what no test was written for: random and mutated input, against references that were written apart.

`make fuzz` runs a million cases, `make test` twenty thousand and every case that was ever found. To add something to
be fuzzed, write a `Target` and add it to `targets.TARGETS`.
"""
