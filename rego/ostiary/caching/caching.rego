# METADATA
# description: |
#   how long an answer may be used again, and on what it depends beyond the identity, the endpoint
#   and the grants
#   ---
#   the names of `vary` are the union over everything that could have applied to this identity and
#   endpoint, whatever the answer was, so that one identity and endpoint has one list
package ostiary.caching

import data.ostiary.permissions
import data.ostiary.routes

# METADATA
# description: |
#   the names an answer can depend on: `context.source_ip`, and the `query` and `segments` of the
#   resource
names := {"query", "segments", "source_ip"}

# METADATA
# description: the cacheability of an answer for which the organisation's rules were not asked
unasked := {"max_age": 5, "vary": []} if {
	_plain
} else := _simple if {
	_simple
} else := {"max_age": min(_ages), "vary": sort(_vary)}

# METADATA
# description: the cacheability of an answer for which they were
asked := {"max_age": 5, "vary": []} if {
	_plain
} else := _simple if {
	_simple
} else := {"max_age": min(_ages | _hook_ages), "vary": sort(_vary)}

# METADATA
# description: the same, of an answer that is another one from that instant on
until(instant) := object.union(asked, {"max_age": min([asked.max_age, instant - input.context.time])})

# METADATA
# description: the cacheability of an answer that must not be used again
never := {"max_age": 0, "vary": []}

# True of most answers: they depend on nothing else. Told apart so that they need not go through
# everything there could be.
_plain if {
	is_string(input.resource.properties.endpoint)
	data.ostiary.map.hooks == {}
	not _conditional
}

# Most others depend on what one caller's terms depend on, which needs no union.
_simple := of(found.hours, found.vary) if {
	is_string(input.resource.properties.endpoint)
	data.ostiary.map.hooks == {}
	[found] := [terms | some terms in permissions.terms]
	not found.custom
}

# METADATA
# description: |
#   the cacheability of an answer that one caller's terms were looked at for, and nothing else: of
#   their `hours` and `vary`
of(false, vary) := {"max_age": 5, "vary": vary}

of(true, vary) := {"max_age": min([5, 60 - (input.context.time % 60)]), "vary": vary}

_conditional if {
	some terms in permissions.terms
	terms.depends
}

# No answer is used again for longer, in seconds.
_ages contains 5

# Nothing flips inside a minute, for windows and zones are whole minutes.
_ages contains 60 - (input.context.time % 60) if {
	some terms in permissions.terms
	terms.hours
}

_ages contains age if {
	some name in _conditions
	age := _stated(name).max_age
}

_hook_ages contains age if {
	some name in _hooks
	age := _stated(name).max_age
}

_vary contains name if {
	some terms in permissions.terms
	some name in terms.vary
}

_vary contains name if {
	some hook in (_conditions | _hooks)
	some name in _stated(hook).vary
}

# Without a prediction nobody but the policy knows the endpoint, so the path stands for it.
_vary contains "segments" if not routes.predicted

_conditions contains name if {
	some terms in permissions.terms
	some name in terms.custom
}

# Whether these rules exist is read from the map: asking them is for what may be allowed only, by the
# map or because the service is observed. (Even if that has ended: one list is for as long as the map is.)
_hooks := {hook |
	_asks
	some hook, _ in data.ostiary.map.hooks
}

_asks if count(permissions.terms) > 0

_asks if data.ostiary.map.observe[input.resource.id]

# What the organisation states about one of its rules. What is not stated, or not well, is not cached.
# (`object.get` keeps OPA from judging these lines by the type that the organisation's rule has.)
_stated(hook) := statement if {
	statement := object.get({"caching": data.policy.caching}, ["caching", hook], null)
	is_number(statement.max_age)
	floor(statement.max_age) == statement.max_age
	statement.max_age >= 0
	is_array(statement.vary)
	every name in statement.vary {
		name in names
	}
} else := never
