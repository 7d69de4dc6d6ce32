# METADATA
# description: |
#   asks the organisation's own rules, `package policy`, about what the map allows. They narrow and
#   cannot widen: all that comes of them is an objection
package ostiary.organisation

# METADATA
# description: true if the organisation refuses. A `deny` that is no set refuses, too
objects if data.policy.deny != set()

# A query that cannot be decoded is null, and a rule that denies for a parameter does not fire on it.
# What rules that read the query could not read, they object to. Whether they do, the builder says.
objects if _unreadable

_unreadable if {
	data.ostiary.map.reads_query
	not _readable
}

_readable if is_array(input.resource.properties.query)

# An `allow` that exists must be true, so a fact that it misses denies. Whether it exists cannot be
# told from its value: the builder, who read the sources, says so.
objects if {
	data.ostiary.map.hooks.allow
	not _consents
}

# (`object.get` keeps OPA from judging this line by the type that the organisation's rule has.)
_consents if object.get({"allow": data.policy.allow}, "allow", null) == true

# METADATA
# description: why it refuses, each with the rule's text where it has one
reasons := _texts if {
	count(_texts) > 0
} else := ["policy-denied"]

_texts := ["policy-denied: the query cannot be read"] if {
	_unreadable
} else := [reason |
	is_set(data.policy.deny)
	some text in data.policy.deny
	reason := sprintf("policy-denied: %v", [text])
]
