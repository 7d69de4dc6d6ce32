package ostiary.organisation_test

import data.ostiary.example
import data.ostiary.organisation

_allow_exists := {"hooks": {"allow": true}}

test_without_rules_nothing_is_refused if {
	not organisation.objects with input as example.request with data.ostiary.map as {"hooks": {}}
}

test_deny if {
	organisation.objects with data.policy.deny as {"b", "a"} with data.ostiary.map as {"hooks": {}}
	reasons := organisation.reasons with data.policy.deny as {"b", "a"} with data.ostiary.map as {"hooks": {}}
	reasons == ["policy-denied: a", "policy-denied: b"]
}

test_an_empty_deny_refuses_nothing if {
	not organisation.objects with data.policy.deny as set() with data.ostiary.map as {"hooks": {}}
}

test_a_deny_of_another_kind_refuses[name] if {
	some name, value in {"false": false, "list": [], "object": {}, "text": "", "null": null}
	organisation.objects with data.policy.deny as value with data.ostiary.map as {"hooks": {}}
	reasons := organisation.reasons with data.policy.deny as value with data.ostiary.map as {"hooks": {}}
	reasons == ["policy-denied"]
}

test_what_is_denied_without_a_text if {
	reasons := organisation.reasons with data.policy.deny as {{"code": 7}} with data.ostiary.map as {"hooks": {}}
	reasons == [`policy-denied: {"code": 7}`]
}

test_allow_must_be_true[name] if {
	some name, value in {"false": false, "text": "true", "number": 1, "object": {}, "null": null}
	organisation.objects with data.policy.allow as value with data.ostiary.map as _allow_exists
	reasons := organisation.reasons with data.policy.allow as value with data.ostiary.map as _allow_exists
	reasons == ["policy-denied"]
}

test_allow_that_is_true if {
	not organisation.objects with data.policy.allow as true with data.ostiary.map as _allow_exists
}

test_allow_that_is_undefined_denies if organisation.objects with data.ostiary.map as _allow_exists

# A rule that reads the query does not fire on one that cannot be decoded.

_reads_query := {"hooks": {"deny": true}, "reads_query": true}

_undecodable := json.patch(
	example.request,
	[{"op": "replace", "path": "/resource/properties/query", "value": null}],
)

test_a_query_that_cannot_be_read_is_refused if {
	organisation.objects with input as _undecodable with data.ostiary.map as _reads_query
	reasons := organisation.reasons with input as _undecodable with data.ostiary.map as _reads_query
	reasons == ["policy-denied: the query cannot be read"]
}

test_a_query_that_can_be_read_is_not if {
	not organisation.objects with input as example.request with data.ostiary.map as _reads_query
}

test_a_query_that_nobody_reads_may_be_anything if {
	not organisation.objects with input as _undecodable with data.ostiary.map as {"hooks": {"deny": true}}
}
