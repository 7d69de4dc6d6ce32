# METADATA
# description: |
#   the entry point: whether one request is allowed, and why
#   ---
#   the decision is the first of these that applies, and always a whole document: a request that is
#   none is refused; the endpoint must be known, and be the one that was predicted; a permission or
#   grant of one of the identity's callers must allow it, unless the service is only observed; and the
#   organisation must not object
package ostiary.authz

import data.ostiary.caching
import data.ostiary.callers
import data.ostiary.observation
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
	"permission": concat("/", [caller, service, endpoint, "44136fa3"]),
	"grant": null,
	"credential": {"lifetime": 60, "per_call": false},
	"expires_at": null,
	"cache": {"max_age": 5, "vary": []},
	"requestable": null,
	"observed": false,
	"shadow": null,
} if {
	# The plain case: one caller, one permission that says nothing, no grant, no rule of the organisation.
	# It comes to what the general case comes to (a test holds it to that), for a quarter: each expression
	# and each rule that is referred to costs, so this says in one body what is said elsewhere in several:
	# 44136fa3 is the digest of no conditions, and the credential is the default.
	endpoint := input.resource.properties.endpoint
	service := input.resource.id

	# A token without claims makes of its subject the one caller that demands nothing more. Its
	# permission is plain, so nobody has a say beside the map, and no grant was sent.
	input.subject.properties.method == "jwt"
	input.subject.properties.claims == {}
	issuer := input.subject.properties.issuer
	subject := input.subject.id
	caller := data.ostiary.map.sole[issuer][subject]
	data.ostiary.map.access[caller][service][endpoint] == "plain"
	input.context.grants == []

	# The predicted endpoint is the one whose form makes the path of these segments (`routes`). No
	# literal stands beside its variables.
	action := input.action.name
	[action, form, pattern] = data.ostiary.map.forms[service][endpoint]
	segments := input.resource.properties.segments
	is_array(segments)
	path := sprintf(form, segments)
	split(path, "/") == segments
	regex.match(pattern, path)

	# The time is one, and there is no rule that the map does not know of.
	time := input.context.time
	time >= 0
	time < 9000000000
	floor(time) == time
	not data.policy.deny
} else := {
	"allow": true,
	"reasons": [],
	"caller": caller,
	"service": input.resource.id,
	"endpoint": endpoint,
	"permission": concat("/", [caller, input.resource.id, endpoint, id]),
	"grant": null,
	"credential": credential,
	"expires_at": null,
	"cache": caching.of(hours, vary),
	"requestable": null,
	"observed": false,
	"shadow": null,
} if {
	# The next plainest: one caller, however it is known, and one permission, whose conditions hold.
	# It comes to what the general case comes to, too; so do the two after it.
	endpoint := input.resource.properties.endpoint
	[caller, id, credential, hours, vary, failures] := permissions.single
	failures == set()
	not data.policy.deny
} else := _refusal({
	"reasons": sort(failures),
	"caller": caller,
	"service": input.resource.id,
	"endpoint": endpoint,
	"cache": caching.of(hours, vary),
}) if {
	# The same, and its conditions do not hold. Nor is the service observed.
	endpoint := input.resource.properties.endpoint
	[caller, _, _, hours, vary, failures] := permissions.single
	failures != set()
	not data.ostiary.map.observe[input.resource.id]
} else := _refusal({
	"reasons": [reason],
	"caller": _first_caller,
	"service": input.resource.id,
	"endpoint": endpoint,
	"cache": {"max_age": 5, "vary": []},
}) if {
	# Nothing at all for any caller: no condition, grant or rule of the organisation has a part in it. Nor
	# is the service observed.
	endpoint := input.resource.properties.endpoint
	requests.well_formed
	routes.confirmed
	permissions.terms == {}
	not data.ostiary.map.observe[input.resource.id]
	reason := {true: "unknown-caller", false: "permission-missing"}[callers.names == set()]
} else := object.union(permissions.basis, {
	"allow": true,
	"reasons": [],
	"service": input.resource.id,
	"endpoint": routes.endpoint,
	"cache": caching.asked,
	"requestable": null,
	"observed": false,
	"shadow": null,
}) if {
	requests.well_formed
	routes.as_predicted
	routes.endpoint
	permissions.basis
	not organisation.objects
} else := _not_permitted if {
	# The most frequent refusal, before what is seldom: all that stands after it has none of these.
	requests.well_formed
	routes.as_predicted
	routes.endpoint
	not permissions.basis
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
	"cache": {"max_age": 5, "vary": ["segments"]},
}) if {
	# None was predicted, so the path is what the answer depends on.
	not routes.endpoint
} else := _refusal({
	"reasons": organisation.reasons,
	"caller": permissions.basis.caller,
	"service": input.resource.id,
	"endpoint": routes.endpoint,
	"permission": permissions.basis.permission,
	"grant": permissions.basis.grant,
	"cache": caching.asked,
})

_not_permitted := _refusal({
	"reasons": sort(permissions.reasons),
	"caller": _first_caller,
	"service": input.resource.id,
	"endpoint": routes.endpoint,
	"requestable": permissions.requestable,
	"shadow": _shadow,
	"cache": _cache,
}) if {
	not _observed
} else := {
	"allow": true,
	"reasons": sort(permissions.reasons),
	"caller": _first_caller,
	"service": input.resource.id,
	"endpoint": routes.endpoint,
	"permission": null,
	"grant": null,
	"credential": observation.credential,
	"expires_at": observation.until,
	"cache": caching.until(observation.until),
	"requestable": null,
	"observed": true,
	"shadow": _shadow,
} if {
	not organisation.objects
} else := _refusal({
	"reasons": array.concat(sort(permissions.reasons), organisation.reasons),
	"caller": _first_caller,
	"service": input.resource.id,
	"endpoint": routes.endpoint,
	"requestable": permissions.requestable,
	"cache": caching.until(observation.until),
})

# Nobody is let through who is no caller of the map: that would be everybody with a token.
_observed if {
	observation.until
	callers.names != set()
}

# A shadow permission is told of if it would have made of this an allow, to which the organisation would
# have had to be asked.
default _shadow := null

_shadow := permissions.shadow if {
	permissions.shadow
	not organisation.objects
}

_cache := caching.asked if {
	permissions.shadow
} else := caching.unasked

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
		"shadow": null,
	},
	found,
)
