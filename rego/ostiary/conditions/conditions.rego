# METADATA
# description: |
#   the conditions of a permission. Each is a test on the request that must hold, written so that
#   whatever cannot be evaluated does not hold. None reads a header: a client writes those
package ostiary.conditions

# METADATA
# description: true if all conditions of a variant of terms hold; it may have none
all_hold(variant) if not variant.conditions

all_hold(variant) if {
	not variant.conditions.custom
	every name, argument in variant.conditions.when {
		hold(name, argument)
	}
}

all_hold(variant) if {
	every name, argument in object.get(variant.conditions, "when", {}) {
		hold(name, argument)
	}
	every name, argument in variant.conditions.custom {
		custom_holds(name, argument)
	}
}

# METADATA
# description: the reasons, `condition-source` and so on, for which a variant of terms does not hold
failures(variant) := set() if {
	not variant.conditions
} else := {reason |
	some name, argument in variant.conditions.when
	not hold(name, argument)
	reason := concat("-", ["condition", name])
} | {reason |
	some name, argument in variant.conditions.custom
	not custom_holds(name, argument)
	reason := concat(": ", ["condition-custom", name])
}

# METADATA
# description: true if the condition of that name holds for its compiled argument
hold("source", networks) if {
	# The peer's address is in one of the networks. A prefix length of 32 makes a network of every
	# address and of nothing else, so the built-in after it never meets what it would fail on.
	address := input.context.source_ip
	net.cidr_is_valid(sprintf("%v/32", [address]))
	some network in networks
	net.cidr_contains(network, address)
}

# The local time of the zone is in one of the windows: minutes of a day, from inclusive, to
# exclusive. A window past midnight was compiled into two.
hold("hours", hours) if {
	instant := [input.context.time * 1000000000, hours.timezone]
	[hour, minute, _] := time.clock(instant)
	now := (hour * 60) + minute
	some window in hours.windows
	window.from <= now
	now < window.to
	time.weekday(instant) in window.days
}

# Every claim equals one of its values, or contains one where the token's claim is a list.
hold("claims", demands) if {
	every name, values in demands {
		_has(input.subject.properties.claims[name], values)
	}
}

hold("read-only", true) if input.action.name in {"GET", "HEAD", "OPTIONS"}

# These parameters only, each at most once, with one of these values.
hold("query", parameters) if {
	pairs := input.resource.properties.query
	is_array(pairs)
	count({name | some [name, _] in pairs}) == count(pairs)
	every pair in pairs {
		_accepts(parameters[pair[0]], pair[1])
	}
}

# The segment at the variable's place equals that claim, or is in it where it is a list.
hold("path", variables) if {
	every variable in variables {
		_has(input.subject.properties.claims[variable.claim], [input.resource.properties.segments[variable.place]])
	}
}

# METADATA
# description: |
#   true if the organisation's own condition holds. Its answer counts only if it is the literal
#   `true`
custom_holds(name, argument) if data.policy.condition(name, argument, input) == true

_has(claim, values) if claim in values

_has(claim, values) if {
	is_array(claim)
	some value in claim
	value in values
}

_accepts("*", _)

_accepts(values, value) if value in values
