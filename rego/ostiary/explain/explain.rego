# METADATA
# description: |
#   explains a decision to people: what each caller of the identity may do with the endpoint, each
#   condition with what it compares, and what else would allow it
#   ---
#   for `ostiary explain` only. It goes through the whole map, which no decision does, and it tells
#   what no caller may see
package ostiary.explain

import data.ostiary.authz
import data.ostiary.callers
import data.ostiary.conditions
import data.ostiary.grants
import data.ostiary.organisation
import data.ostiary.permissions
import data.ostiary.requests
import data.ostiary.routes

# METADATA
# title: explanation
# description: |
#   the decision with everything that led to it. What cannot be told (the endpoint of a path that
#   has none) is null or empty
# entrypoint: true
explanation := {
	"decision": authz.decision,
	"endpoint": _endpoint,
	"methods": _methods,
	"callers": _callers,
	"permitted": _having("standing"),
	"eligible": _having("eligible"),
	"roles": _roles,
	"organisation": _organisation,
} if {
	requests.well_formed
} else := {
	"decision": authz.decision,
	"endpoint": null,
	"methods": {},
	"callers": [],
	"permitted": [],
	"eligible": [],
	"roles": [],
	"organisation": [],
}

default _endpoint := null

_endpoint := {
	"name": routes.endpoint,
	"template": data.ostiary.map.endpoints[input.resource.id][routes.endpoint],
}

default _methods := {}

_methods := routes.methods

_callers := [{
	"caller": caller,
	"standing": [_variant(caller, variant) | some variant in permissions.terms[caller].standing],
	"eligible": [object.union(_variant(caller, variant), _limits(caller, variant)) |
		some variant in permissions.terms[caller].eligible
	],
	"shadow": [_variant(caller, variant) | some variant in permissions.terms[caller].shadow],
} |
	some caller in sort(callers.names)
]

_variant(caller, variant) := {
	"permission": concat("/", [caller, input.resource.id, routes.endpoint, variant.id]),
	"holds": count(conditions.failures(variant)) == 0,
	"conditions": array.concat(
		[{"condition": name, "holds": _holds(name, argument), "demanded": argument, "found": _found(name, argument)} |
			some name, argument in variant.conditions.when
		],
		[{"condition": concat(" ", ["custom", name]), "holds": _custom(name, argument), "demanded": argument, "found": null} |
			some name, argument in variant.conditions.custom
		],
	),
	"credential": variant.credential,
}

_limits(caller, variant) := {
	"approvers": variant.approvers,
	"approvals": variant.approvals,
	"max_duration": variant.max_duration,
	"grant": _grant(caller),
}

_grant(caller) := "active" if {
	some grant in grants.active
	grant.caller == caller
} else := "expired" if {
	some grant in grants.expired
	grant.caller == caller
} else := "missing"

default _holds(_, _) := false

_holds(name, argument) if conditions.hold(name, argument)

default _custom(_, _) := false

_custom(name, argument) if conditions.custom_holds(name, argument)

# What a condition compares its argument with.
default _found(_, _) := null

_found("source", _) := input.context.source_ip

_found("hours", hours) := {"day": day, "time": sprintf("%02d:%02d", [hour, minute])} if {
	instant := [input.context.time * 1000000000, hours.timezone]
	[hour, minute, _] := time.clock(instant)
	day := time.weekday(instant)
}

_found("claims", demands) := object.filter(input.subject.properties.claims, object.keys(demands))

_found("read-only", _) := input.action.name

_found("query", _) := input.resource.properties.query

_found("path", variables) := {variable.variable: found |
	some variable in variables
	found := {
		"segment": input.resource.properties.segments[variable.place],
		"claim": object.get(input.subject.properties.claims, variable.claim, null),
	}
}

_having(kind) := sort([caller |
	some caller, services in data.ostiary.map.access
	id := services[input.resource.id][routes.endpoint]
	data.ostiary.map.terms[id][kind]
])

_roles := sort([role |
	some role, services in data.ostiary.map.roles
	routes.endpoint in services[input.resource.id]
])

default _organisation := []

_organisation := organisation.reasons if {
	permissions.basis
	organisation.objects
}
