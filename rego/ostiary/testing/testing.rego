# METADATA
# description: |
#   requests for the tests of an organisation's rules, in the words of a table of cases: caller or
#   identity, subject, claims, service, request, from, at, granted. `ostiary bundle test` loads it
#   beside the tests; no bundle holds it, so no rule can use it
package ostiary.testing

import data.ostiary.authz

# METADATA
# description: |
#   the instant of a request that says none, 2026-03-02 10:00:00 UTC, a Monday; in whole seconds
now := 1772445600

# METADATA
# description: where a request that does not say comes from, an address that nobody has (RFC 5737)
nowhere := "192.0.2.1"

# METADATA
# description: the decision on a request that is described in these words; undefined for other ones
decision(asked) := answer if {
	described := request(asked)
	answer := authz.decision with input as described
}

# METADATA
# description: |
#   the request that is described so: {"caller": "web", "service": "orders", "request": "GET /orders"}.
#   Undefined for a word that is none, a caller whom the map does not know, and an escape in the path
request(asked) := {
	"subject": proved,
	"action": {"name": method},
	"resource": {
		"type": "service",
		"id": asked.service,
		"properties": {"segments": _segments(parts[0]), "query": _query(parts)},
	},
	"context": {
		"time": at,
		"source_ip": object.get(asked, "from", nowhere),
		"actor": null,
		"grants": _grants(asked, proved, at),
	},
} if {
	object.keys(asked) - _words == set()
	proved := subject(asked)
	[method, target] := split(asked.request, " ")
	regex.match(`^/[^%+;#]*$`, target)
	parts := split(target, "?")
	count(parts) < 3
	at := _instant(asked)
}

# METADATA
# description: |
#   who asks: an identity that is `caller` and no more, unless `claims` and `subject` say more; or the
#   `identity` itself, with an issuer, a subject and claims or with a SPIFFE ID
subject(asked) := _subject(
	object.union(
		_proof(asked),
		{key: value | some key in ["subject"]; value := asked[key]},
	),
	object.get(asked, "claims", {}),
)

_words := {"caller", "identity", "subject", "claims", "service", "request", "from", "at", "granted"}

_subject(proof, claims) := {
	"type": "workload",
	"id": proof.subject,
	"properties": {
		"issuer": proof.issuer,
		"method": object.get(proof, "method", "jwt"),
		"claims": object.union(object.get(proof, "claims", {}), claims),
	},
}

_proof(asked) := asked.identity if {
	not asked.caller
	not asked.identity.spiffe
}

_proof(asked) := {"issuer": _trust_domain(asked.identity.spiffe), "subject": asked.identity.spiffe, "method": "mtls"} if {
	not asked.caller
}

_proof(asked) := _workloads(asked.caller)[0] if not asked.identity

_proof(asked) := object.union(_subjects(asked.caller)[0], {"claims": _demanded(asked.caller)}) if not asked.identity

_proof(asked) := object.union({"subject": "someone", "claims": _demanded(asked.caller)}, _members(asked.caller)[0]) if {
	not asked.identity
}

_workloads(caller) := [{"issuer": issuer, "subject": id, "method": "mtls"} |
	some issuer, ids in data.ostiary.map.callers.workloads
	some id, names in ids
	caller in names
]

_subjects(caller) := [{"issuer": issuer, "subject": id} |
	some issuer, ids in data.ostiary.map.callers.subjects
	some id, names in ids
	caller in names
]

_members(caller) := [{"issuer": issuer, "claims": {claim: value}} |
	some issuer, claims in data.ostiary.map.callers.claims
	some claim, values in claims
	some value, names in values
	caller in names
]

_demanded(caller) := {claim: values[0] |
	some claim, values in data.ostiary.map.callers.demands[caller]
}

_trust_domain(spiffe) := concat("/", array.slice(split(spiffe, "/"), 0, 3))

_segments(path) := split(substring(path, 1, -1), "/")

_query(parts) := [] if count(parts) == 1

_query(parts) := [[name, value] |
	some parameter in split(parts[1], "&")
	halves := split(parameter, "=")
	name := halves[0]
	value := concat("=", array.slice(halves, 1, count(halves)))
]

_instant(asked) := floor(time.parse_rfc3339_ns(object.get(asked, "at", "2026-03-02T10:00:00Z")) / 1000000000)

_grants(asked, _, _) := [] if not asked.granted

_grants(asked, proved, at) := [{
	"id": "g-1",
	"caller": asked.caller,
	"issuer": proved.properties.issuer,
	"subject": proved.id,
	"service": asked.service,
	"endpoints": asked.granted,
	"expires_at": at + 900,
}]
