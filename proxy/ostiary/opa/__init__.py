"""Everything about Open Policy Agent as a program: getting it, running it, and talking to it."""
