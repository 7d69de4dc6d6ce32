# Run by `opa test` on the built bundle, where the whole decision can be asked for:
#
#     ostiary bundle build bundles/demo -o build/demo
#     opa test build/demo
package policy.tests

import data.ostiary.authz
import data.policy

_monday := 1789984800 # 2026-09-21 10:00:00 UTC

_sunday := 1789898400 # 2026-09-20 10:00:00 UTC

# A request of the web application. The tests below change what they are about.
_request := {
	"subject": {
		"type": "workload",
		"id": "web",
		"properties": {"issuer": "http://idp.localhost", "method": "jwt", "claims": {}},
	},
	"action": {"name": "GET"},
	"resource": {
		"type": "service",
		"id": "orders",
		"properties": {"segments": ["orders"], "query": []},
	},
	"context": {"time": _monday, "source_ip": "127.0.0.1", "actor": null, "grants": []},
}

_with(patch) := json.patch(_request, patch)

_refund(time) := _with([
	{"op": "replace", "path": "/subject/id", "value": "ann"},
	{"op": "replace", "path": "/subject/properties/claims", "value": {"groups": ["support"]}},
	{"op": "replace", "path": "/action/name", "value": "POST"},
	{"op": "replace", "path": "/resource/id", "value": "billing"},
	{"op": "replace", "path": "/resource/properties/segments", "value": ["charges", "7", "refund"]},
	{"op": "replace", "path": "/context/time", "value": time},
	{"op": "replace", "path": "/context/grants", "value": [{
		"id": "g-1",
		"caller": "support",
		"issuer": "http://idp.localhost",
		"subject": "ann",
		"service": "billing",
		"endpoints": ["refund"],
		"expires_at": time + 900,
	}]},
])

test_orders_are_listed if {
	authz.decision.allow with input as _request
}

test_not_all_of_them_at_once if {
	all_pages := _with([{"op": "replace", "path": "/resource/properties/query", "value": [["page", "all"]]}])
	decision := authz.decision with input as all_pages
	decision.allow == false
	decision.reasons == ["policy-denied: orders are listed a page at a time"]
}

test_a_refund_takes_a_grant if {
	ungranted := json.patch(_refund(_monday), [{"op": "replace", "path": "/context/grants", "value": []}])
	decision := authz.decision with input as ungranted
	decision.allow == false
	decision.reasons == ["grant-required"]
	decision.requestable.approvers == ["support-lead"]
}

test_refunds_on_weekdays if {
	decision := authz.decision with input as _refund(_monday)
	decision.allow
	decision.grant == "g-1"
}

test_no_refunds_on_sundays if {
	decision := authz.decision with input as _refund(_sunday)
	decision.reasons == ["policy-denied: no refunds on sundays"]
}

# A rule can also be asked by itself.
test_issued_by if {
	policy.condition("issued-by", ["http://idp.localhost"], _request)
	not policy.condition("issued-by", ["https://elsewhere.test"], _request)
}
