# METADATA
# description: |
#   rules of the organisation. They are asked about what permissions.yaml allows, and can only refuse
package policy

# METADATA
# description: |
#   who is shut out at once, whatever the map says, until their tokens have ended and their accounts are closed
deny contains "this subject is blocked" if {
	[input.subject.properties.issuer, input.subject.id] in _blocked
}

_blocked := {["https://idp.example", "mallory"]}

# METADATA
# description: |
#   what the answers above depend on besides identity and endpoint: nothing. So one may be used again for five seconds
caching := {"deny": {"max_age": 5, "vary": []}}
