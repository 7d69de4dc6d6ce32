package ostiary.conditions_test

import data.ostiary.conditions
import data.ostiary.example

_networks := ["10.0.0.0/8", "2001:db8::/32"]

test_source[address] if {
	some address in ["10.0.0.0", "10.255.255.255", "::ffff:10.0.0.7", "2001:db8::1"]
	conditions.hold("source", _networks) with input as example.changed({"source_ip": address})
}

test_not_source[name] if {
	some name, address in {
		"the one before": "9.255.255.255",
		"the one after": "11.0.0.0",
		"another of the other family": "2001:db9::1",
		"a network": "10.0.0.0/30",
		"an address with a zone": "fe80::1%eth0",
		"leading zeros": "010.0.0.7",
		"a name": "localhost",
		"nothing": "",
		"a number": 167772167,
		"null": null,
	}
	not conditions.hold("source", _networks) with input as example.changed({"source_ip": address})
}

test_no_network_holds_no_address if not conditions.hold("source", []) with input as example.request

_week := ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday"]

_office := {"timezone": "Europe/Paris", "windows": [{"from": 480, "to": 1080, "days": _week}]}

_night := {"timezone": "Europe/Paris", "windows": [
	{"from": 1320, "to": 1440, "days": ["Friday"]},
	{"from": 0, "to": 360, "days": ["Saturday"]},
]}

_at(instant) := floor(time.parse_rfc3339_ns(instant) / 1000000000)

_hours := {
	"from is inclusive": {"hours": _office, "at": "2026-09-21T08:00:00+02:00", "holds": true},
	"a second before": {"hours": _office, "at": "2026-09-21T07:59:59+02:00", "holds": false},
	"the last second": {"hours": _office, "at": "2026-09-21T17:59:59+02:00", "holds": true},
	"to is exclusive": {"hours": _office, "at": "2026-09-21T18:00:00+02:00", "holds": false},
	"another day": {"hours": _office, "at": "2026-09-20T12:00:00+02:00", "holds": false},
	"in winter": {"hours": _office, "at": "2026-12-21T07:00:00Z", "holds": true},
	"in winter, too early": {"hours": _office, "at": "2026-12-21T06:59:59Z", "holds": false},
	"in summer": {"hours": _office, "at": "2026-06-22T06:00:00Z", "holds": true},
	"the evening it begins": {"hours": _night, "at": "2026-09-25T22:00:00+02:00", "holds": true},
	"past midnight": {"hours": _night, "at": "2026-09-26T05:59:59+02:00", "holds": true},
	"the morning after is over": {"hours": _night, "at": "2026-09-26T06:00:00+02:00", "holds": false},
	"the morning of the day it begins": {"hours": _night, "at": "2026-09-25T03:00:00+02:00", "holds": false},
	"the evening of the day after": {"hours": _night, "at": "2026-09-26T23:00:00+02:00", "holds": false},
}

test_hours[name] if {
	some name, case in _hours
	result := count([1 | conditions.hold("hours", case.hours)]) with input as example.changed({"time": _at(case.at)})
	result == count([1 | case.holds])
}

_claims := {
	"equal": {"demands": {"tenant": ["acme"]}, "claims": {"tenant": "acme"}, "holds": true},
	"one of several": {"demands": {"tenant": ["acme", "beta"]}, "claims": {"tenant": "beta"}, "holds": true},
	"in a list": {"demands": {"groups": ["a"]}, "claims": {"groups": ["b", "a"]}, "holds": true},
	"all of them": {"demands": {"groups": ["a"], "tier": ["g"]}, "claims": {"groups": "a", "tier": "g"}, "holds": true},
	"one of them": {"demands": {"groups": ["a"], "tier": ["g"]}, "claims": {"groups": "a"}, "holds": false},
	"another": {"demands": {"tenant": ["acme"]}, "claims": {"tenant": "acmes"}, "holds": false},
	"missing": {"demands": {"tenant": ["acme"]}, "claims": {}, "holds": false},
	"null": {"demands": {"tenant": ["acme"]}, "claims": {"tenant": null}, "holds": false},
	"a key": {"demands": {"tenant": ["acme"]}, "claims": {"tenant": {"acme": true}}, "holds": false},
	"a value of an object": {"demands": {"tenant": ["acme"]}, "claims": {"tenant": {"x": "acme"}}, "holds": false},
	"another type": {"demands": {"level": ["3"]}, "claims": {"level": 3}, "holds": false},
	"a list in a list": {"demands": {"groups": ["a"]}, "claims": {"groups": [["a"]]}, "holds": false},
}

test_claims[name] if {
	some name, case in _claims
	result := count([1 | conditions.hold("claims", case.demands)]) with input as example.changed({"claims": case.claims})
	result == count([1 | case.holds])
}

test_read_only[action] if {
	some action in ["GET", "HEAD", "OPTIONS"]
	conditions.hold("read-only", true) with input as example.changed({"action": action})
}

test_not_read_only[action] if {
	some action in ["POST", "PUT", "PATCH", "DELETE", "get"]
	not conditions.hold("read-only", true) with input as example.changed({"action": action})
}

_parameters := {"status": ["open", "paid"], "page": "*"}

_queries := {
	"no parameter": {"query": [], "holds": true},
	"one": {"query": [["status", "open"]], "holds": true},
	"both": {"query": [["page", "7"], ["status", "paid"]], "holds": true},
	"any value": {"query": [["page", ""]], "holds": true},
	"another value": {"query": [["status", "lost"]], "holds": false},
	"the star is no value": {"query": [["status", "*"]], "holds": false},
	"another parameter": {"query": [["sort", "asc"]], "holds": false},
	"another beside": {"query": [["page", "1"], ["sort", "asc"]], "holds": false},
	"twice": {"query": [["page", "1"], ["page", "2"]], "holds": false},
	"twice the same": {"query": [["page", "1"], ["page", "1"]], "holds": false},
	"what could not be decoded": {"query": null, "holds": false},
	"an object": {"query": {"page": "1"}, "holds": false},
	"no pair": {"query": [["page"]], "holds": false},
	"three": {"query": [["page", "1", "2"]], "holds": false},
	"texts": {"query": ["page"], "holds": false},
}

test_query[name] if {
	some name, case in _queries
	result := count([1 | conditions.hold("query", _parameters)]) with input as example.changed({"query": case.query})
	result == count([1 | case.holds])
}

_variables := [{"variable": "tenant", "claim": "tenant", "place": 1}]

_paths := {
	"equal": {"variables": _variables, "claims": {"tenant": "42"}, "holds": true},
	"in a list": {"variables": _variables, "claims": {"tenant": ["41", "42"]}, "holds": true},
	"another": {"variables": _variables, "claims": {"tenant": "43"}, "holds": false},
	"missing": {"variables": _variables, "claims": {}, "holds": false},
	"a number": {"variables": _variables, "claims": {"tenant": 42}, "holds": false},
	"no such variable here": {
		"variables": [{"variable": "tenant", "claim": "tenant"}],
		"claims": {"tenant": "42"},
		"holds": false,
	},
	"no such place": {
		"variables": [{"variable": "tenant", "claim": "tenant", "place": 9}],
		"claims": {"tenant": "42"},
		"holds": false,
	},
}

test_path[name] if {
	some name, case in _paths
	result := count([1 | conditions.hold("path", case.variables)]) with input as example.changed({"claims": case.claims})
	result == count([1 | case.holds])
}

test_unknown_conditions_do_not_hold if not conditions.hold("weather", true) with input as example.request

test_headers_are_no_condition if not conditions.hold("headers", {}) with input as example.request

_answer(name, argument, request) := request.subject.id == argument if name == "subject"

_answer(name, _, _) := "yes" if name == "text"

_conditional := {"conditions": {
	"when": {"source": ["192.0.2.0/24"], "read-only": true},
	"custom": {"subject": "ann", "text": 1, "absent": null},
}}

test_failures if {
	failures := conditions.failures(_conditional) with input as example.request with data.policy.condition as _answer
	failures == {
		"condition-source",
		"condition-custom: subject",
		"condition-custom: text",
		"condition-custom: absent",
	}
}

test_all_hold if {
	conditions.all_hold({})
	variant := {"conditions": {"when": {"read-only": true}, "custom": {"subject": "web"}}}
	conditions.all_hold(variant) with input as example.request with data.policy.condition as _answer
	not conditions.all_hold(_conditional) with input as example.request with data.policy.condition as _answer
}

test_absent_conditions_do_not_hold if not conditions.custom_holds("odd", 1) with input as example.request
