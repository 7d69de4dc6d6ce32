package ostiary.authz_test

import data.ostiary.authz
import data.ostiary.example
import data.ostiary.fixture

_denied := {
	"allow": false,
	"reasons": [],
	"caller": "web",
	"service": "shop",
	"endpoint": null,
	"permission": null,
	"grant": null,
	"credential": null,
	"expires_at": null,
	"cache": {"max_age": 5, "vary": []},
	"requestable": null,
	"observed": false,
	"shadow": null,
}

_allowed := object.union(_denied, {
	"allow": true,
	"endpoint": "get",
	"permission": "web/shop/get/44136fa3",
	"credential": {"lifetime": 60, "per_call": false},
})

_never := {"max_age": 0, "vary": []}

_night := concat("/", ["night/shop/get", data.ostiary.fixture.map.terms[fixture.map.access.night.shop.get].standing[0].id])

_trainee := object.union(_denied, {"caller": "trainee", "endpoint": "get"})

_trainee_list := {"subject": "trainee", "segments": ["orders"], "predicted": "list", "query": [["status", "shut"]]}

_trainee_terms := fixture.map.terms[fixture.map.access.trainee.shop.list]

_dependent := {"max_age": 5, "vary": ["query", "source_ip"]}

# A request for an endpoint that no literal stands beside: most are so, and may be judged the short way.
_alone := {"segments": ["any", "thing"], "predicted": "anything"}

_cases := {
	"a standing permission": {"changes": {}, "decision": _allowed},
	"one that no literal stands beside": {"changes": _alone, "decision": object.union(_allowed, {
		"endpoint": "anything",
		"permission": "web/shop/anything/44136fa3",
	})},
	"the rest of a path": {
		"changes": {"segments": ["docs", "a", "b"], "predicted": "docs"},
		"decision": object.union(_allowed, {"endpoint": "docs", "permission": "web/shop/docs/44136fa3"}),
	},
	"the rest of a path after a variable": {
		"changes": {"segments": ["shelves", "s", "a"], "predicted": "shelf"},
		"decision": object.union(_allowed, {"endpoint": "shelf", "permission": "web/shop/shelf/44136fa3"}),
	},
	"a prediction of nothing": {
		"changes": {"predicted": null},
		"decision": object.union(_allowed, {"cache": {"max_age": 5, "vary": ["segments"]}}),
	},
	"an unknown service": {
		"changes": {"service": "shops"},
		"decision": object.union(_denied, {"reasons": ["unknown-service"], "service": null}),
	},
	"another endpoint than the predicted one": {
		"changes": {"predicted": "put"},
		"decision": object.union(_denied, {"reasons": ["route-mismatch"], "cache": _never}),
	},
	"an endpoint predicted where there is none": {
		"changes": {"segments": ["orders", "a", "b", "c"]},
		"decision": object.union(_denied, {"reasons": ["route-mismatch"], "cache": _never}),
	},
	"a condition that does not hold": {
		"changes": {"subject": "night", "segments": ["orders"], "predicted": "list"},
		"decision": object.union(_denied, {"reasons": ["condition-hours"], "caller": "night", "endpoint": "list"}),
	},
	"a condition that holds": {
		"changes": {"subject": "night"},
		"decision": object.union(_allowed, {"caller": "night", "permission": _night}),
	},
	"nobody the map knows": {
		"changes": {"subject": "stranger"},
		"decision": object.union(_denied, {"reasons": ["unknown-caller"], "caller": null, "endpoint": "get"}),
	},
	"an endpoint that is not permitted": {
		"changes": {"action": "DELETE", "predicted": "remove"},
		"decision": object.union(_denied, {"reasons": ["permission-missing"], "endpoint": "remove"}),
	},
	"no falling through to a broader template": {
		"changes": {"segments": ["orders", "admin", "users"], "predicted": "admin"},
		"decision": object.union(_denied, {"reasons": ["permission-missing"], "endpoint": "admin"}),
	},
	"a shadow permission": {
		"changes": {"subject": "trainee"},
		"decision": object.union(_trainee, {"reasons": ["permission-missing"], "shadow": "trainee/shop/get/44136fa3"}),
	},
	"a shadow beside an eligibility": {
		"changes": {"subject": "trainee", "action": "PUT", "predicted": "put"},
		"decision": object.union(_trainee, {
			"endpoint": "put",
			"reasons": ["grant-required"],
			"shadow": "trainee/shop/put/44136fa3",
			"requestable": {
				"caller": "trainee",
				"service": "shop",
				"endpoint": "put",
				"approvers": ["lead"],
				"max_duration": 600,
			},
		}),
	},
	"a shadow beside a permission that holds": {
		"changes": object.union(_trainee_list, {"source_ip": "192.0.2.7", "query": [["status", "open"]]}),
		"decision": object.union(_allowed, {
			"caller": "trainee",
			"endpoint": "list",
			"permission": concat("/", ["trainee/shop/list", _trainee_terms.standing[0].id]),
			"cache": _dependent,
		}),
	},
	"a shadow that holds where the permission does not": {
		"changes": object.union(_trainee_list, {"query": [["status", "open"]]}),
		"decision": object.union(_trainee, {
			"endpoint": "list",
			"reasons": ["condition-source"],
			"shadow": concat("/", ["trainee/shop/list", _trainee_terms.shadow[0].id]),
			"cache": _dependent,
		}),
	},
	"a shadow that does not hold": {
		"changes": _trainee_list,
		"decision": object.union(_trainee, {
			"endpoint": "list",
			"reasons": ["condition-source"],
			"cache": _dependent,
		}),
	},
	"an eligibility without a grant": {
		"changes": {"action": "PUT", "predicted": "put"},
		"decision": object.union(_denied, {
			"reasons": ["grant-required"],
			"endpoint": "put",
			"requestable": {
				"caller": "web",
				"service": "shop",
				"endpoint": "put",
				"approvers": ["lead"],
				"max_duration": 600,
			},
		}),
	},
	"an eligibility with a grant": {
		"changes": {"action": "PUT", "predicted": "put", "grants": [example.grant({})]},
		"decision": object.union(_allowed, {
			"endpoint": "put",
			"permission": null,
			"grant": "g-1",
			"expires_at": example.now + 900,
		}),
	},
}

test_decision[name] if {
	some name, case in _cases
	request := example.changed(case.changes)
	decision := authz.decision with input as request with data.ostiary.map as fixture.map
	decision == case.decision
}

# The plainest cases are judged by short ways of their own. Without forms there are none, and the long
# way comes to the same.
test_the_short_way_is_the_long_way[name] if {
	some name, case in _cases
	request := example.changed(case.changes)
	decision := authz.decision with input as request
		with data.ostiary.map as object.union(object.remove(fixture.map, ["forms"]), {"forms": {}})
	decision == case.decision
}

# What makes a case not plain, one at a time.
test_not_plain[name] if {
	some name, case in {
		"a grant": {"changes": {"grants": [example.grant({"endpoints": ["anything"]})]}, "deny": set()},
		"another caller": {"changes": {"claims": {"groups": ["lead"], "level": "3"}}, "deny": set()},
		"a rule that the map does not know of": {"changes": {}, "deny": set()},
	}
	request := example.changed(object.union(_alone, case.changes))
	short := authz.decision with input as request
		with data.ostiary.map as fixture.map
		with data.policy.deny as case.deny
	long := authz.decision with input as request
		with data.ostiary.map as object.union(object.remove(fixture.map, ["forms"]), {"forms": {}})
		with data.policy.deny as case.deny
	short.allow
	short == long
}

# A map that is compiled for an organisation with rules: nothing in it is plain or alone.
_hooked(hooks) := object.union(object.remove(fixture.map, ["terms", "access", "hooks"]), {
	"access": {"web": {"shop": {"get": "0"}}},
	"terms": {"0": {"standing": [{"id": "44136fa3", "credential": {"lifetime": 60, "per_call": false}}]}},
	"hooks": hooks,
})

_unpredicted(changes) := json.remove(example.changed(changes), ["/resource/properties/endpoint"])

test_without_a_prediction if {
	decision := authz.decision with input as _unpredicted({}) with data.ostiary.map as fixture.map
	decision == object.union(_allowed, {"cache": {"max_age": 5, "vary": ["segments"]}})
}

test_unknown_endpoint[method] if {
	some method in ["PATCH", "get", "OPTIONS"]
	decision := authz.decision with input as _unpredicted({"action": method}) with data.ostiary.map as fixture.map
	decision == object.union(_denied, {
		"reasons": ["unknown-endpoint"],
		"cache": {"max_age": 5, "vary": ["segments"]},
	})
}

_objection := object.union(_allowed, {
	"allow": false,
	"reasons": ["policy-denied: not today"],
	"credential": null,
	"cache": _never,
})

test_an_allow_that_is_undefined_is_no_plain_case if {
	decision := authz.decision with input as example.request
		with data.ostiary.map as _hooked({"allow": true})
		with data.policy.caching as {}
	decision == object.union(_objection, {"reasons": ["policy-denied"]})
}

test_policy_denied if {
	decision := authz.decision with input as example.request
		with data.ostiary.map as _hooked({"deny": true})
		with data.policy.deny as {"not today"}
		with data.policy.caching as {}
	decision == _objection
}

test_the_organisation_is_asked_about_a_shadow[text] if {
	some text, rules in {"not today": {"not today"}, "": set()}
	decision := authz.decision with input as example.changed({"subject": "trainee"})
		with data.ostiary.map as object.union(fixture.map, {"hooks": {"deny": true}})
		with data.policy.deny as rules
		with data.policy.caching as {"deny": {"max_age": 2, "vary": ["source_ip"]}}
	decision == object.union(_trainee, {
		"reasons": ["permission-missing"],
		"shadow": {"not today": null, "": "trainee/shop/get/44136fa3"}[text],
		"cache": {"max_age": 2, "vary": ["source_ip"]},
	})
}

test_what_the_map_denies_is_not_asked if {
	decision := authz.decision with input as example.changed({"subject": "stranger"})
		with data.ostiary.map as _hooked({"deny": true})
		with data.policy.deny as {"not today"}
		with data.policy.caching as {}
	decision.reasons == ["unknown-caller"]
	decision.cache == {"max_age": 5, "vary": []}
}

test_malformed[path] if {
	some path in [
		"/subject",
		"/subject/id",
		"/subject/properties",
		"/subject/properties/issuer",
		"/subject/properties/method",
		"/subject/properties/claims",
		"/action",
		"/action/name",
		"/resource",
		"/resource/id",
		"/resource/properties",
		"/resource/properties/segments",
		"/context",
		"/context/time",
		"/context/grants",
	]
	some request in [example.request, example.changed(_alone)]
	decision := authz.decision with input as json.remove(request, [path])
		with data.ostiary.map as fixture.map
	decision == object.union(_denied, {
		"reasons": ["request-malformed"],
		"caller": null,
		"service": null,
		"cache": _never,
	})
}

test_decisions_are_in_order if {
	requests := [example.request, "no request", example.changed({"subject": "stranger"})]
	decisions := authz.decisions with input as {"evaluations": requests} with data.ostiary.map as fixture.map
	[decision.reasons | some decision in decisions] == [[], ["request-malformed"], ["unknown-caller"]]
}

test_no_decisions_without_requests[name] if {
	some name, document in {"none": {}, "text": {"evaluations": "x"}}
	decisions := authz.decisions with input as document with data.ostiary.map as fixture.map
	decisions == []
}
