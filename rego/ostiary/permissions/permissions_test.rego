package ostiary.permissions_test

import data.ostiary.example
import data.ostiary.fixture
import data.ostiary.permissions

_prod := {"claims": {"stage": "prod"}}

_refund := {
	"action": "POST",
	"segments": ["orders", "42", "refund"],
	"claims": {"stage": "prod", "groups": ["support"]},
}

_put := {"action": "PUT"}

_grant(caller, changes) := example.grant(object.union({"caller": caller, "endpoints": ["refund"]}, changes))

test_the_lowest_caller_is_named_the_strictest_credential_given if {
	basis := permissions.basis with input as example.changed(_prod) with data.ostiary.map as fixture.map
	basis == {
		"caller": "web",
		"permission": "web/shop/get/44136fa3",
		"grant": null,
		"expires_at": null,
		"credential": {"lifetime": 30, "per_call": true},
	}
}

test_the_strictest_of_three if {
	request := example.changed({"claims": {"stage": "prod", "groups": "support"}})
	basis := permissions.basis with input as request with data.ostiary.map as fixture.map
	basis.caller == "support"
	basis.credential == {"lifetime": 30, "per_call": true}
}

test_of_several_grants_the_lowest_caller_then_the_last_to_end if {
	given := [
		_grant("web-prod", {"id": "g-1"}),
		_grant("support", {"id": "g-3", "expires_at": example.now + 10}),
		_grant("support", {"id": "g-2", "expires_at": example.now + 20}),
	]
	request := example.changed(object.union(_refund, {"grants": given}))
	basis := permissions.basis with input as request with data.ostiary.map as fixture.map
	basis == {
		"caller": "support",
		"permission": null,
		"grant": "g-2",
		"expires_at": example.now + 20,
		"credential": {"lifetime": 20, "per_call": false},
	}
}

test_standing_before_grant if {
	given := example.grant({"endpoints": ["get"]})
	request := example.changed({"grants": [given]})
	widened := object.union(fixture.map, {"access": {"web": {"shop": {"get": "both"}}}, "terms": {"both": {
		"standing": [{"id": "00000000", "credential": {"lifetime": 60, "per_call": false}}],
		"eligible": [{"id": "11111111", "credential": {"lifetime": 5, "per_call": true}}],
	}}})
	basis := permissions.basis with input as request with data.ostiary.map as widened
	basis == {
		"caller": "web",
		"permission": "web/shop/get/00000000",
		"grant": null,
		"expires_at": null,
		"credential": {"lifetime": 5, "per_call": true},
	}
}

_denied := {
	"a stranger": {"changes": {"subject": "stranger"}, "reasons": {"unknown-caller"}},
	"nothing": {"changes": {"action": "DELETE"}, "reasons": {"permission-missing"}},
	"of two callers one has the permission": {
		"changes": {"action": "DELETE", "claims": {"stage": "prod"}, "source_ip": "192.0.2.1"},
		"reasons": {"permission-missing", "condition-source"},
	},
	"two that may be granted": {
		"changes": _refund,
		"reasons": {"permission-missing", "grant-required"},
	},
	"a grant that has ended": {
		"changes": object.union(_put, {"grants": [example.grant({"expires_at": example.now})]}),
		"reasons": {"grant-expired"},
	},
	"a grant, but not from here": {
		"changes": {
			"subject": "ann",
			"action": "POST",
			"segments": ["orders", "42", "refund"],
			"claims": {"groups": "support"},
			"source_ip": "192.0.2.1",
			"grants": [_grant("support", {"subject": "ann"})],
		},
		"reasons": {"condition-source"},
	},
	"no grant, and not from here": {
		"changes": {
			"subject": "ann",
			"action": "POST",
			"segments": ["orders", "42", "refund"],
			"claims": {"groups": "support"},
			"source_ip": "192.0.2.1",
		},
		"reasons": {"condition-source", "grant-required"},
	},
	"a grant that the map has no eligibility for": {
		"changes": {"action": "DELETE", "grants": [example.grant({"endpoints": ["remove"]})]},
		"reasons": {"permission-missing"},
	},
}

test_reasons[name] if {
	some name, case in _denied
	request := example.changed(case.changes)
	reasons := permissions.reasons with input as request with data.ostiary.map as fixture.map
	reasons == case.reasons
	not permissions.basis with input as request with data.ostiary.map as fixture.map
}

_requestable(caller, approvers, duration) := {
	"caller": caller,
	"service": "shop",
	"endpoint": "refund",
	"approvers": approvers,
	"max_duration": duration,
}

test_requestable[name] if {
	some name, case in {
		"the first": {"grants": [], "requestable": _requestable("support", ["lead"], 1800)},
		"the next": {
			"grants": [_grant("support", {})],
			"requestable": _requestable("web-prod", ["lead", "support"], 3600),
		},
		"none is left": {"grants": [_grant("support", {}), _grant("web-prod", {})], "requestable": null},
	}
	request := example.changed(object.union(_refund, {"grants": case.grants}))
	requestable := permissions.requestable with input as request with data.ostiary.map as fixture.map
	requestable == case.requestable
}

test_nothing_is_requestable_where_nothing_is_eligible if {
	requestable := permissions.requestable with input as example.changed({"action": "DELETE"})
		with data.ostiary.map as fixture.map
	requestable == null
}
