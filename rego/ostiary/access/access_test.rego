package ostiary.access_test

import data.ostiary.access
import data.ostiary.example

_terms(changes) := object.union(
	{
		"approvers": ["lead", "owner"],
		"approvals": 1,
		"max_duration": 600,
		"max_uses": null,
		"reason_required": false,
	},
	changes,
)

_map := {
	"sole": {"https://idp.test": {"web": "web"}},
	"access": {"web": {"shop": {"refund": "0", "remove": "1", "close": "2", "get": "3", "urgent": "4", "twice": "5", "apart": "6"}}},
	"terms": {
		"0": {"eligible": [_terms({})]},
		"1": {"eligible": [_terms({
			"approvers": ["owner"],
			"approvals": 2,
			"max_duration": 60,
			"max_uses": 5,
			"reason_required": true,
			"auto_approve": true,
			"emergency": 300,
		})]},
		"2": {"eligible": [_terms({"approvers": ["nobody-else"]})]},
		"3": {"standing": []},
		"4": {"eligible": [_terms({"auto_approve": true, "emergency": 60})]},
		"5": {"eligible": [
			_terms({"auto_approve": true, "emergency": 60}),
			_terms({"approvers": ["owner"], "approvals": 2, "max_duration": 60, "max_uses": 1}),
		]},
		"6": {"eligible": [_terms({"approvers": ["lead"]}), _terms({"approvers": ["owner"]})]},
	},
}

_about(subject, service, endpoints) := about if {
	request := object.union(
		example.changed({"subject": subject}),
		{"access": {"service": service, "endpoints": endpoints}},
	)
	about := access.about with input as request with data.ostiary.map as _map
}

test_one_endpoint if {
	_about("web", "shop", ["refund"]) == {
		"callers": ["web"],
		"eligible": [object.union(_terms({}), {"caller": "web", "auto_approve": false, "emergency": null})],
		"ruling": null,
		"operator": false,
	}
}

test_several_endpoints_have_the_strictest_of_their_terms if {
	_about("web", "shop", ["refund", "remove"]).eligible == [{
		"caller": "web",
		"approvers": ["owner"],
		"approvals": 2,
		"max_duration": 60,
		"max_uses": 5,
		"reason_required": true,
		"auto_approve": false,
		"emergency": null,
	}]
}

# A grant is good under the conditions of each of them.
test_several_eligibilities_for_one_endpoint_have_the_strictest_of_their_terms if {
	_about("web", "shop", ["twice"]).eligible == [{
		"caller": "web",
		"approvers": ["owner"],
		"approvals": 2,
		"max_duration": 60,
		"max_uses": 1,
		"reason_required": false,
		"auto_approve": false,
		"emergency": null,
	}]
}

test_alone_only_where_each_can_be_had_so if {
	[found] := _about("web", "shop", ["urgent", "remove"]).eligible
	[found.auto_approve, found.emergency] == [true, 60]
}

test_a_rule_of_the_organisation_is_asked_about_what_can_be_had if {
	ruling := {"approve": false, "reason": "a freeze"}
	said := _about("web", "shop", ["refund"]).ruling with data.policy.approve as ruling
	said == ruling
	unsaid := _about("web", "shop", ["get"]).ruling with data.policy.approve as ruling
	unsaid == null
}

test_not_eligible[name] if {
	some name, endpoints in {
		"nothing": [],
		"an endpoint that is not": ["get"],
		"one of two": ["refund", "get"],
		"one that does not exist": ["missing"],
		"two that nobody approves both of": ["refund", "close"],
		"one that nobody approves under each of its conditions": ["apart"],
	}
	_about("web", "shop", endpoints) == {"callers": ["web"], "eligible": [], "ruling": null, "operator": false}
}

test_another_service if {
	_about("web", "other", ["refund"]).eligible == []
}

test_somebody_else if {
	_about("ann", "shop", ["refund"]) == {"callers": [], "eligible": [], "ruling": null, "operator": false}
}

test_answering_asks_for_nothing if {
	about := access.about with input as example.request with data.ostiary.map as _map
	about == {"callers": ["web"], "eligible": [], "ruling": null, "operator": false}
}

test_operators_are_those_whom_the_map_names if {
	request := object.union(
		example.changed({"subject": "web"}),
		{"access": {"service": "", "endpoints": []}},
	)
	about := access.about with input as request
		with data.ostiary.map as object.union(_map, {"operators": {"web": true}})
	about.operator
	other := access.about with input as request
		with data.ostiary.map as object.union(_map, {"operators": {"security": true}})
	not other.operator
	nobody := access.about with input as request with data.ostiary.map as _map
	not nobody.operator
}
