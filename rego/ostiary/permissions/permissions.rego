# METADATA
# description: |
#   what the callers of an identity may do with the requested endpoint: by a permission that stands,
#   or by an eligibility and a grant for it
package ostiary.permissions

import data.ostiary.callers
import data.ostiary.conditions
import data.ostiary.grants
import data.ostiary.requests
import data.ostiary.routes

# METADATA
# description: |
#   the terms of each caller of the identity that has some for the requested endpoint: `standing`,
#   `eligible` and `shadow` variants, and what an answer that looked at them depends on
terms[caller] := data.ostiary.map.terms[id] if {
	some caller in callers.names
	id := data.ostiary.map.access[caller][input.resource.id][routes.endpoint]
}

# METADATA
# description: |
#   the caller and the permission or grant to be named, with the strictest credential profile of
#   everything that allowed; undefined if nothing did
basis := {
	"caller": caller,
	"permission": _id(caller, variant),
	"grant": null,
	"expires_at": null,
	"credential": variant.credential,
} if {
	# Most often this is all there is, and nothing needs to be compared.
	input.context.grants == []
	[[caller, variant, _]] = _standing
} else := {
	"caller": caller,
	"permission": _id(caller, variant),
	"grant": null,
	"expires_at": null,
	"credential": _strictest,
} if {
	[caller, variant, _] := _standing[0]
} else := {
	"caller": caller,
	"permission": null,
	"grant": grant.id,
	"expires_at": grant.expires_at,
	"credential": _strictest,
} if {
	[caller, _, grant] := _granted[0]
}

# METADATA
# description: |
#   where there is one caller with one permission and nothing else (no eligibility, and no grant was
#   sent): the caller, the permission's last part and credential, what an answer depends on, and the
#   reasons for which the permission does not hold
#   ---
#   neither the terms nor the conditions as a whole: what stands in an array, or is given to a
#   function, is converted from the data to the last part of it
single := [caller, variant.id, variant.credential, found.hours, found.vary, failures] if {
	requests.well_formed
	input.context.grants == []
	[caller] := [name | some name in callers.names]
	id := data.ostiary.map.access[caller][input.resource.id][routes.confirmed]
	found := data.ostiary.map.terms[id]
	found.alone
	[variant] := found.standing
	failures := {reason |
		some name, argument in variant.conditions.when
		not conditions.hold(name, argument)
		reason := concat("-", ["condition", name])
	}
}

_id(caller, variant) := concat("/", [caller, input.resource.id, routes.endpoint, variant.id])

_strictest := {"lifetime": min(lifetimes), "per_call": true in each_call} if {
	variants := [variant | some [_, variant, _] in array.concat(_standing, _granted)]
	lifetimes := [variant.credential.lifetime | some variant in variants]
	each_call := [variant.credential.per_call | some variant in variants]
}

# Everything that allows, as `[caller, variant of the terms, grant or null]`, in the order in which it
# is named: standing before grant, then the lowest caller name, then what ends last.
_standing := [[caller, variant, null] |
	some caller, found in terms
	some variant in found.standing
	conditions.all_hold(variant)
]

_granted := [[caller, variant, grant] |
	some [caller, _, _, grant, variant] in sort([[grant.caller, 0 - grant.expires_at, grant.id, grant, variant] |
		some grant in grants.active
		some variant in terms[grant.caller].eligible
		conditions.all_hold(variant)
	])
]

# METADATA
# description: |
#   why the map does not allow the request: the reasons of every caller, since any of them could
#   have been the one that the identity is meant to be
reasons contains "unknown-caller" if count(callers.names) == 0

reasons contains "permission-missing" if {
	some caller in callers.names
	not terms[caller]
}

# A shadow is as good as none.
reasons contains "permission-missing" if {
	some found in terms
	found.shadow
	not found.standing
	not found.eligible
}

reasons contains reason if {
	some found in terms
	some kind in ["standing", "eligible"]
	some variant in found[kind]
	some reason in conditions.failures(variant)
}

reasons contains "grant-required" if {
	some caller in _ungranted
	not caller in _expired
}

reasons contains "grant-expired" if {
	some caller in _ungranted
	caller in _expired
}

# METADATA
# description: |
#   the first shadow permission that holds: it would have allowed what nothing else does. Undefined if
#   there is none
shadow := _shadows[0]

_shadows := [_id(caller, variant) |
	some caller, found in terms
	some variant in found.shadow
	conditions.all_hold(variant)
]

# METADATA
# description: what could be requested instead, by the first caller that has no grant; else null
default requestable := null

requestable := {
	"caller": caller,
	"service": input.resource.id,
	"endpoint": routes.endpoint,
	"approvers": terms[caller].eligible[0].approvers,
	"max_duration": terms[caller].eligible[0].max_duration,
} if {
	caller := min(_ungranted)
}

_ungranted := {caller |
	some caller, found in terms
	found.eligible
} - {grant.caller | some grant in grants.active}

_expired := {grant.caller | some grant in grants.expired}
