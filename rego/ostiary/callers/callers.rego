# METADATA
# description: maps the identity that was proved to the callers that the map has permissions for
package ostiary.callers

import data.ostiary.conditions

# METADATA
# description: the names of all callers that this identity is
names := {caller} if {
	# A token without claims: none of them can make it another caller, or meet a demand.
	input.subject.properties.method == "jwt"
	input.subject.properties.claims == {}
	caller := data.ostiary.map.sole[input.subject.properties.issuer][input.subject.id]
} else := _names

_names contains name if {
	some name in data.ostiary.map.callers.subjects[input.subject.properties.issuer][input.subject.id]
	_demands_met(name)
}

_names contains name if {
	some claim in data.ostiary.map.callers.indexed[input.subject.properties.issuer]
	some value in _values(input.subject.properties.claims[claim])
	is_string(value)
	some name in data.ostiary.map.callers.claims[input.subject.properties.issuer][claim][value]
	_demands_met(name)
}

# A plain token that says a SPIFFE ID proves none.
_names contains name if {
	some name in data.ostiary.map.callers.workloads[input.subject.properties.issuer][input.subject.id]
	input.subject.properties.method in {"jwt-svid", "mtls", "xfcc"}
}

_values(claim) := claim if {
	is_array(claim)
} else := [claim]

# What a caller's entry demands beyond the key it is found by.
_demands_met(name) if not data.ostiary.map.callers.demands[name]

_demands_met(name) if conditions.hold("claims", data.ostiary.map.callers.demands[name])
