# METADATA
# description: |
#   what an identity may ask for, and as whom it may answer what others ask: for requests for access,
#   which are about no call
package ostiary.access

import data.ostiary.callers

# METADATA
# title: about
# description: |
#   the callers that the identity is; and of these each one that is eligible for all the endpoints in
#   `input.access`, with the strictest of their terms. Where an endpoint has several eligibilities, under
#   other conditions each, a grant is good under all of them, so all of their terms count. `ruling` is
#   what the organisation's own rule says of it, `{"approve": true or false, "reason": text}`; null if it
#   says nothing. `operator` is true if the map names one of the callers as one who may block
# entrypoint: true
about := {"callers": sort(callers.names), "eligible": _eligible, "ruling": _ruling, "operator": _operator}

default _operator := false

_operator if {
	some caller in callers.names
	data.ostiary.map.operators[caller] == true
}

default _ruling := null

_ruling := data.policy.approve if _eligible != []

_eligible := [terms |
	some caller in sort(callers.names)
	by_endpoint := _by_endpoint(caller)
	by_endpoint != []
	count(by_endpoint) == count(input.access.endpoints)
	variants := [variant | some several in by_endpoint; some variant in several]
	approvers := intersection({{name | some name in variant.approvers} | some variant in variants})
	approvers != set()
	terms := {
		"caller": caller,
		"approvers": sort(approvers),
		"approvals": max([variant.approvals | some variant in variants]),
		"max_duration": min([variant.max_duration | some variant in variants]),
		"max_uses": _least([variant.max_uses | some variant in variants; variant.max_uses != null]),
		"reason_required": true in [variant.reason_required | some variant in variants],
		"auto_approve": _all_approve(variants),
		"emergency": _shortest([variant.emergency | some variant in variants], count(variants)),
	}
]

_by_endpoint(caller) := [several |
	some endpoint in input.access.endpoints
	id := data.ostiary.map.access[caller][input.access.service][endpoint]
	several := data.ostiary.map.terms[id].eligible
	several != []
]

default _all_approve(_) := false

_all_approve(variants) if {
	every variant in variants {
		variant.auto_approve
	}
}

# Alone in an emergency: only where all of them can be had so.
default _shortest(_, _) := null

_shortest(durations, wanted) := min(durations) if count(durations) == wanted

_least(numbers) := null if {
	numbers == []
} else := min(numbers)
