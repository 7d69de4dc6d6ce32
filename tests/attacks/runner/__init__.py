"""The attack corpus, run: `make attacks`, or `python -m attacks.runner` with `tests` on the path.

corpus      cases as they are written, and the errors of those that cannot be understood
amounts     bodies that are described: "gzip(10 GB zeros)"
forgery     tokens that are right, or wrong in the way that a case says
wire        a client of exact bytes
service     the service behind the proxy: it records every byte, and answers what it is told to
fixture     the proxy of SECURITY.md, as people run it, and its variations
faults      OPA, key servers and bundle servers that misbehave
verdicts    what each expectation demands
generators  a case's `generator:` text to what is done, by kind
access      people who ask for access and approve it, step by step (access_words: phrase by phrase)
sequences   the steps of a sequence, phrase by phrase
labs        where cases are tried: each lab is one running proxy, and tries its cases one after the other
run         all of it at once
"""
