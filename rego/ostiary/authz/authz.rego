# METADATA
# description: |
#   the entry point: whether one request is allowed, and why
#   ---
#   the decision is the first of these that applies, and always a whole document: a request that is
#   none is refused; the endpoint must be known, and be the one that was predicted; a permission or
#   grant of one of the identity's callers must allow it; and the organisation must not object
package ostiary.authz

import data.ostiary.caching
import data.ostiary.callers
import data.ostiary.organisation
import data.ostiary.permissions
import data.ostiary.requests
import data.ostiary.routes

# METADATA
# title: decision
# description: the decision on the request in `input`
# entrypoint: true
decision := {
	"allow": true,
	"reasons": [],
	"caller": caller,
	"service": service,
	"endpoint": endpoint,
	"permission": concat("/", [caller, service, endpoint, id]),
	"grant": null,
	"credential": {"lifetime": lifetime, "per_call": per_call},
	"expires_at": null,
	"cache": {"max_age": 5, "vary": []},
	"requestable": null,
	"observed": false,
} if {
	# The plain case: one caller, one permission without conditions, no grant, no rule of the
	# organisation. It comes to what the general case comes to (a test holds it to that), for less.
	requests.well_formed
	service := input.resource.id
	endpoint := input.resource.properties.endpoint
	endpoint == routes.endpoint
	count(callers.names) == 1
	some caller in callers.names
	terms := data.ostiary.map.access[caller][service][endpoint]
	[id, lifetime, per_call] := data.ostiary.map.plain[terms]
	input.context.grants == []
	data.ostiary.map.hooks == {}
	not data.policy.deny
} else := object.union(permissions.basis, {
	"allow": true,
	"reasons": [],
	"service": input.resource.id,
	"endpoint": routes.endpoint,
	"cache": caching.asked,
	"requestable": null,
	"observed": false,
}) if {
	requests.well_formed
	routes.as_predicted
	permissions.basis
	not organisation.objects
} else := _refusal({"reasons": ["request-malformed"]}) if {
	not requests.well_formed
} else := _refusal({"reasons": ["unknown-service"], "caller": _first_caller, "cache": caching.unasked}) if {
	not routes.known_service
} else := _refusal({"reasons": ["route-mismatch"], "caller": _first_caller, "service": input.resource.id}) if {
	not routes.as_predicted
} else := _refusal({
	"reasons": ["unknown-endpoint"],
	"caller": _first_caller,
	"service": input.resource.id,
	"cache": caching.unasked,
}) if {
	not routes.endpoint
} else := _refusal({
	"reasons": sort(permissions.reasons),
	"caller": _first_caller,
	"service": input.resource.id,
	"endpoint": routes.endpoint,
	"requestable": permissions.requestable,
	"cache": caching.unasked,
}) if {
	not permissions.basis
} else := _refusal({
	"reasons": organisation.reasons,
	"caller": permissions.basis.caller,
	"service": input.resource.id,
	"endpoint": routes.endpoint,
	"permission": permissions.basis.permission,
	"grant": permissions.basis.grant,
	"cache": caching.asked,
})

# METADATA
# title: decisions
# description: |
#   the decisions on the requests in `input.evaluations`: as many as there are, in their order
# entrypoint: true
decisions := [answer |
	some request in input.evaluations
	answer := decision with input as request
]

default _first_caller := null

_first_caller := min(callers.names)

# A denial has every field, too: what was found before it was refused, null for the rest.
_refusal(found) := object.union(
	{
		"allow": false,
		"reasons": [],
		"caller": null,
		"service": null,
		"endpoint": null,
		"permission": null,
		"grant": null,
		"credential": null,
		"expires_at": null,
		"cache": {"max_age": 0, "vary": []},
		"requestable": null,
		"observed": false,
	},
	found,
)
