"""A proxy under mixed traffic and faults for minutes: `make soak`, or `python -m soak --minutes 10 --seed 1`.

Two workers and a managed OPA, an issuer, and a service that go wrong at random, seeded times; clients that know by
themselves what each request has to come to (`oracle`); and afterwards the audit, the memory and the descriptors.
"""
