package ostiary.explain_test

import data.ostiary.example
import data.ostiary.explain
import data.ostiary.fixture

_explained(changes) := explanation if {
	explanation := explain.explanation with input as example.changed(changes)
		with data.ostiary.map as fixture.map
}

test_whole if {
	explanation := _explained({"claims": {"stage": "prod"}, "action": "DELETE", "predicted": "remove"})
	json.remove(explanation, ["decision"]) == {
		"endpoint": {"name": "remove", "template": "DELETE /orders/{id}"},
		"methods": {"GET": "get", "PUT": "put", "DELETE": "remove"},
		"callers": [
			{"caller": "web", "standing": [], "eligible": [], "shadow": []},
			{
				"caller": "web-prod",
				"standing": [{
					"permission": _permission,
					"holds": true,
					"conditions": [{
						"condition": "source",
						"holds": true,
						"demanded": ["10.0.0.0/8", "2001:db8::/32"],
						"found": "10.0.0.7",
					}],
					"credential": {"lifetime": 60, "per_call": false},
				}],
				"eligible": [],
				"shadow": [],
			},
		],
		"permitted": ["web-prod"],
		"eligible": [],
		"roles": [],
		"organisation": [],
	}
	explanation.decision.permission == _permission
}

_permission := concat("/", ["web-prod", "shop", "remove", fixture.map.terms[_terms].standing[0].id])

_terms := fixture.map.access["web-prod"].shop.remove

_compared := {
	"hours": {
		"changes": {"subject": "night"},
		"holds": true,
		"found": {"day": "Monday", "time": "16:13"},
	},
	"query": {
		"changes": {"subject": "limited", "segments": ["orders"], "query": [["page", "1"]]},
		"holds": true,
		"found": [["page", "1"]],
	},
	"claims": {
		"changes": {"subject": "limited", "claims": {"groups": "a", "other": "x"}},
		"holds": false,
		"found": {"groups": "a"},
	},
	"read-only": {"changes": {"subject": "limited"}, "holds": true, "found": "GET"},
	"path": {
		"changes": {"subject": "tenant", "segments": ["tenants", "a", "items"], "claims": {"tenant": "b"}},
		"holds": false,
		"found": {"tenant": {"segment": "a", "claim": "b"}},
	},
	"custom odd": {"changes": {"subject": "custom"}, "holds": true, "found": null},
	"custom even": {"changes": {"subject": "custom"}, "holds": false, "found": null},
}

_answer(name, _, _) if name == "odd"

test_what_was_compared[name] if {
	some name, case in _compared
	explanation := _explained(object.union({"predicted": null}, case.changes))
		with data.policy.condition as _answer
	some variant in explanation.callers[0].standing
	some condition in variant.conditions
	condition.condition == name
	condition.holds == case.holds
	condition.found == case.found
}

_refund := {
	"subject": "ann",
	"action": "POST",
	"segments": ["orders", "42", "refund"],
	"predicted": "refund",
	"claims": {"groups": "support"},
}

test_eligibility[name] if {
	some name, grants in {
		"missing": [],
		"active": [example.grant({"caller": "support", "subject": "ann", "endpoints": ["refund"]})],
		"expired": [example.grant({"caller": "support", "subject": "ann", "endpoints": ["refund"], "expires_at": 1})],
	}
	explanation := _explained(object.union(_refund, {"grants": grants}))
	[eligibility] := explanation.callers[0].eligible
	eligibility.grant == name
	eligibility.approvers == ["lead"]
	eligibility.max_duration == 1800
	explanation.eligible == ["support", "web-prod"]
}

test_what_is_missing_is_compared_as_null if {
	request := json.remove(
		example.changed({"action": "DELETE", "claims": {"stage": "prod"}}),
		["/context/source_ip", "/resource/properties/endpoint"],
	)
	explanation := explain.explanation with input as request with data.ostiary.map as fixture.map
	[variant] := explanation.callers[1].standing
	variant.conditions == [{
		"condition": "source",
		"holds": false,
		"demanded": ["10.0.0.0/8", "2001:db8::/32"],
		"found": null,
	}]
}

test_roles if _explained({}).roles == ["reader"]

test_the_organisation_is_asked_about_what_the_map_allows if {
	explanation := explain.explanation with input as example.request
		with data.ostiary.map as fixture.map
		with data.policy.deny as {"no"}
	explanation.organisation == ["policy-denied: no"]
}

test_nothing_to_tell[name] if {
	some name, case in {
		"an unknown path": {"changes": {"segments": ["x"], "predicted": null}, "reason": "unknown-endpoint"},
		"an unknown service": {"changes": {"service": "x", "predicted": null}, "reason": "unknown-service"},
		"no request": {"changes": {"segments": null}, "reason": "request-malformed"},
	}
	explanation := _explained(case.changes)
	explanation.decision.reasons == [case.reason]
	explanation.endpoint == null
	explanation.methods == {}
	explanation.permitted == []
	explanation.roles == []
}
