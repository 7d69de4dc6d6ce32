# METADATA
# description: |
#   this deployment's own rules. They narrow what permissions.yaml allows and cannot widen it. What a
#   request looks like is in docs/policy.md; policy_test.rego shows how to test these
package policy

# METADATA
# description: refuses what the map allows; each text is shown to whoever was refused
deny contains "orders are listed a page at a time" if {
	input.resource.id == "orders"
	some ["page", "all"] in input.resource.properties.query
}

deny contains "no refunds on sundays" if {
	input.resource.id == "billing"
	[_, _, "refund"] = input.resource.properties.segments
	time.weekday(input.context.time * 1000000000) == "Sunday"
}

# METADATA
# description: |
#   answers `when: {custom: {issued-by: [issuer, …]}}`. The name in the head is literal; whatever is
#   not true does not hold
condition("issued-by", issuers, request) if request.subject.properties.issuer in issuers

# METADATA
# description: |
#   what these answers depend on besides the identity and the endpoint: `deny` on the query, the path
#   and, to the second, the time. It is a statement: this version keeps no answer and asks every time
caching := {
	"deny": {"max_age": 1, "vary": ["query", "segments"]},
	"issued-by": {"max_age": 5, "vary": []},
}
