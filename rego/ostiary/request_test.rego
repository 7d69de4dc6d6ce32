# The request that the tests of these packages change a part of.
package ostiary.example

# 2026-09-21 14:13:20 UTC, a Monday; 16:13:20 in Paris.
now := 1790000000

request := {
	"subject": {
		"type": "workload",
		"id": "web",
		"properties": {"issuer": "https://idp.test", "method": "jwt", "claims": {}},
	},
	"action": {"name": "GET"},
	"resource": {
		"type": "service",
		"id": "shop",
		"properties": {"segments": ["orders", "42"], "query": [], "endpoint": "get"},
	},
	"context": {"time": now, "source_ip": "10.0.0.7", "actor": null, "grants": []},
}

# What may be changed by name, and where that is. Null for a prediction leaves it out.
_places := {
	"subject": "/subject/id",
	"issuer": "/subject/properties/issuer",
	"proof": "/subject/properties/method",
	"claims": "/subject/properties/claims",
	"action": "/action/name",
	"service": "/resource/id",
	"segments": "/resource/properties/segments",
	"query": "/resource/properties/query",
	"predicted": "/resource/properties/endpoint",
	"time": "/context/time",
	"source_ip": "/context/source_ip",
	"grants": "/context/grants",
}

changed(changes) := json.patch(request, [patch |
	some name, value in changes
	patch := {"op": "replace", "path": _places[name], "value": value}
])

grant(changes) := object.union(
	{
		"id": "g-1",
		"caller": "web",
		"issuer": "https://idp.test",
		"subject": "web",
		"service": "shop",
		"endpoints": ["put"],
		"expires_at": now + 900,
	},
	changes,
)
