package ostiary.observation_test

import data.ostiary.authz
import data.ostiary.example
import data.ostiary.fixture
import data.ostiary.observation

_end := example.now + 86400

_map(until) := object.union(fixture.map, {"observe": {"shop": until}})

_decided(changes, until) := decision if {
	decision := authz.decision with input as example.changed(changes) with data.ostiary.map as _map(until)
}

_undisturbed(changes) := decision if {
	decision := authz.decision with input as example.changed(changes) with data.ostiary.map as fixture.map
}

_observed := {
	"allow": true,
	"reasons": [],
	"caller": "web",
	"service": "shop",
	"endpoint": "get",
	"permission": null,
	"grant": null,
	"credential": {"lifetime": 60, "per_call": false},
	"expires_at": _end,
	"cache": {"max_age": 5, "vary": []},
	"requestable": null,
	"observed": true,
	"shadow": null,
}

_cases := {
	"no permission": {
		"changes": {"action": "DELETE", "predicted": "remove"},
		"decision": {"endpoint": "remove", "reasons": ["permission-missing"]},
	},
	"a condition that does not hold": {
		"changes": {"subject": "night", "segments": ["orders"], "predicted": "list"},
		"decision": {"caller": "night", "endpoint": "list", "reasons": ["condition-hours"]},
	},
	"an eligibility without a grant": {
		"changes": {"action": "PUT", "predicted": "put"},
		"decision": {"endpoint": "put", "reasons": ["grant-required"]},
	},
	"a grant that has ended": {
		"changes": {"action": "PUT", "predicted": "put", "grants": [example.grant({"expires_at": example.now})]},
		"decision": {"endpoint": "put", "reasons": ["grant-expired"]},
	},
	"a shadow permission": {
		"changes": {"subject": "trainee"},
		"decision": {
			"caller": "trainee",
			"reasons": ["permission-missing"],
			"shadow": "trainee/shop/get/44136fa3",
		},
	},
	"several callers": {
		"changes": {"action": "DELETE", "predicted": "remove", "claims": {"stage": "prod"}, "source_ip": "192.0.2.1"},
		"decision": {
			"endpoint": "remove",
			"reasons": ["condition-source", "permission-missing"],
			"cache": {"max_age": 5, "vary": ["source_ip"]},
		},
	},
	"the strictest credential of those that do not hold": {
		"changes": {
			"subject": "limited",
			"segments": ["orders", "1", "lines", "2"],
			"predicted": "lines",
			"query": [["a", "b"]],
			"action": "GET",
			"source_ip": "198.51.100.1",
		},
		"map": {"access": {"limited": {"shop": {"lines": "some"}}}, "terms": {"some": {
			"standing": [
				{
					"id": "00000000",
					"credential": {"lifetime": 10, "per_call": false},
					"conditions": {"when": {"source": ["192.0.2.0/24"]}},
				},
				{
					"id": "11111111",
					"credential": {"lifetime": 50, "per_call": true},
					"conditions": {"when": {"source": ["203.0.113.0/24"]}},
				},
			],
			"vary": ["source_ip"],
			"hours": false,
			"depends": true,
		}}},
		"decision": {
			"caller": "limited",
			"endpoint": "lines",
			"reasons": ["condition-source"],
			"credential": {"lifetime": 10, "per_call": true},
			"cache": {"max_age": 5, "vary": ["source_ip"]},
		},
	},
}

test_what_the_map_does_not_allow_is_let_through_and_said_to_be[name] if {
	some name, case in _cases
	decision := authz.decision with input as example.changed(case.changes)
		with data.ostiary.map as object.union(_map(_end), object.get(case, "map", {}))
	decision == object.union(_observed, case.decision)
}

test_what_is_allowed_is_allowed_as_ever[name] if {
	some name, changes in {
		"plain": {"segments": ["any", "thing"], "predicted": "anything"},
		"a condition": {"subject": "night"},
		"a grant": {"action": "PUT", "predicted": "put", "grants": [example.grant({})]},
	}
	decision := _decided(changes, _end)
	decision.allow
	decision == _undisturbed(changes)
}

# Neither who is nobody here, nor what is no endpoint, nor what is no request is a question of permissions.
test_what_is_refused_all_the_same[name] if {
	some name, changes in {
		"unknown-caller": {"subject": "stranger"},
		"unknown-endpoint": {"segments": ["nowhere"], "predicted": null},
		"unknown-service": {"service": "shops"},
		"route-mismatch": {"predicted": "put"},
		"request-malformed": {"claims": null},
	}
	decision := _decided(changes, _end)
	decision.reasons == [name]
	decision == _undisturbed(changes)
}

test_another_service_is_not_observed if {
	decision := authz.decision with input as example.changed(_cases["no permission"].changes)
		with data.ostiary.map as object.union(fixture.map, {"observe": {"orders": _end}})
	decision.reasons == ["permission-missing"]
	not decision.allow
}

test_it_ends_by_itself if {
	changes := _cases["no permission"].changes
	last := _decided(changes, example.now + 1)
	last.observed
	last.expires_at == example.now + 1
	last.cache == {"max_age": 1, "vary": []}
	_decided(changes, example.now) == _undisturbed(changes)
	not observation.until with input as example.changed(changes) with data.ostiary.map as _map(example.now)
}

_ruled(changes, until, rules) := decision if {
	decision := authz.decision with input as example.changed(changes)
		with data.ostiary.map as object.union(_map(until), {"hooks": {"deny": true}})
		with data.policy.deny as rules
		with data.policy.caching as {"deny": {"max_age": 3, "vary": ["query"]}}
}

test_the_organisation_refuses_all_the_same if {
	changes := _cases["no permission"].changes
	decision := _ruled(changes, example.now + 2, {"not today"})
	not decision.allow
	decision.reasons == ["permission-missing", "policy-denied: not today"]
	decision.cache == {"max_age": 2, "vary": ["query"]}
	_ruled(changes, example.now + 2, set()).observed
}

# One list is for one question, for as long as the map is: whether it is observed still, or asked about.
test_what_answers_depend_on_does_not_change_with_the_end[name] if {
	some name in ["no permission", "a condition that does not hold", "a shadow permission"]
	decisions := [_ruled(_cases[name].changes, until, rules) |
		some until in [_end, example.now]
		some rules in [{"not today"}, set()]
	]
	count({decision.cache.vary | some decision in decisions}) == 1
}
