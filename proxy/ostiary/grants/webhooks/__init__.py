"""Who is told of requests, grants and blocks, by signed POST: what is said, how it looks in a chat, how it gets there.

Nothing here is on the way of a request, an approval or a revocation. What is to be told is in the store together with
the word that its step is in the audit (`grants.outbox`), and is taken from there by the supervisor of one machine
(`deliverer`).
"""
