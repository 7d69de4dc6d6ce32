# METADATA
# description: |
#   asks the organisation's own rules, `package policy`, about what the map allows. They narrow and
#   cannot widen: all that comes of them is an objection
package ostiary.organisation

# METADATA
# description: true if the organisation refuses. A `deny` that is no set refuses, too
objects if data.policy.deny != set()

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

_texts := [reason |
	is_set(data.policy.deny)
	some text in data.policy.deny
	reason := sprintf("policy-denied: %v", [text])
]
