# METADATA
# description: |
#   the shape of a request: whatever is judged later was checked here first, so that no built-in
#   of ours ever meets a value of a type it fails on
package ostiary.requests

import data.ostiary.routes

# METADATA
# description: |
#   true if the input is a request as the decision contract has it
#   ---
#   types matter as much as presence: `data.x[2]` would find the key "2". They are told by their
#   order, which is null, booleans, numbers, strings, arrays, objects, sets: what lies between the
#   least string and the least array is a string
well_formed if {
	# What has the form of its endpoint has texts for segments, service and method.
	routes.confirmed
	is_string(input.subject.id)
	is_string(input.subject.properties.issuer)
	is_string(input.subject.properties.method)
	_well_formed_otherwise
} else if {
	# A path has at least one segment, which is empty for `/`.
	segments := input.resource.properties.segments
	is_array(segments)
	segments != []
	texts := array.concat(segments, [
		input.subject.id,
		input.subject.properties.issuer,
		input.subject.properties.method,
		input.action.name,
		input.resource.id,
	])
	min(texts) >= ""
	max(texts) < []
	_well_formed_otherwise
}

_well_formed_otherwise if {
	is_object(input.subject.properties.claims)
	is_array(input.context.grants)

	# Whole seconds. The bound keeps the same instant in nanoseconds within 64 bits.
	time := input.context.time
	time >= 0
	time < 9000000000
	floor(time) == time
}
