# METADATA
# description: |
#   finds the one endpoint that a request is aimed at
#   ---
#   a template is looked up by its key: the path with `=` before each literal segment and a
#   variable's place held by `{}` and its type. A format per *shape* (which places are variables,
#   and of which types) turns the segments into that key, so a look-up costs the number of shapes
#   for that path length. No segment can spell the key of a variable, for a literal starts with `=`.
package ostiary.routes

# METADATA
# description: true if the map has the requested service
known_service if data.ostiary.map.services[input.resource.id]

# METADATA
# description: |
#   the name of the requested endpoint: that of the matching template and the request's method. At
#   most one template without `**` matches; one with `**` is asked only if none did, whatever their
#   methods, and then the longest first
endpoint := confirmed if {
	confirmed
} else := _exact[input.action.name] if {
	_exact
} else := name if {
	not _exact
	name := _covering[0][input.action.name]
}

# METADATA
# description: |
#   the predicted endpoint, where its own form shows that it is the one
#   ---
#   a template has a form if no other is asked before it for a path that both match, so what matches
#   is found. The form makes the path of the segments, the literals its own; that the path has these
#   segments says that the literals are theirs, too, and that all are texts and none holds a
#   separator. `sprintf` asks for a list
confirmed := endpoint if {
	service := input.resource.id
	endpoint := input.resource.properties.endpoint
	action := input.action.name
	[action, form, pattern] = data.ostiary.map.forms[service][endpoint]
	segments := input.resource.properties.segments
	is_array(segments)
	path := sprintf(form, segments)
	split(path, "/") == segments
	regex.match(pattern, path)
} else := endpoint if {
	# A literal stands beside a variable, which must not be it.
	service := input.resource.id
	endpoint := input.resource.properties.endpoint
	action := input.action.name
	[action, form, pattern, guards] = data.ostiary.map.forms[service][endpoint]
	segments := input.resource.properties.segments
	is_array(segments)
	path := sprintf(form, segments)
	split(path, "/") == segments
	regex.match(pattern, path)
	not _guarded(guards, segments)
} else := endpoint if {
	# The template ends in `**`: its form is what the path begins with.
	service := input.resource.id
	endpoint := input.resource.properties.endpoint
	action := input.action.name
	[action, form, pattern, guards, true] = data.ostiary.map.forms[service][endpoint]
	segments := input.resource.properties.segments
	is_array(segments)
	min(segments) >= ""
	max(segments) < []
	path := concat("/", segments)
	split(path, "/") == segments
	startswith(path, sprintf(form, segments))
	regex.match(pattern, path)
	not _guarded(guards, segments)
}

# METADATA
# description: the endpoints, by method, of the template that the path matches
methods := _exact if {
	_exact
} else := _covering[0]

# METADATA
# description: true if the endpoint is the predicted one, or none was predicted
as_predicted if input.resource.properties.endpoint == endpoint

as_predicted if not predicted

# METADATA
# description: true if the proxy predicted an endpoint
predicted if input.resource.properties.endpoint != null

# Both are the endpoints of a template, by method.
_exact := found if {
	segments := input.resource.properties.segments
	some [format, pattern] in data.ostiary.map.routes[input.resource.id].shapes[count(segments)]
	key := sprintf(format, segments)
	found := data.ostiary.map.routes[input.resource.id].templates[key]
	regex.match(pattern, concat("/", segments))
	not _shadowed(key, segments)
}

# Segments that hold a separator of their own would be more of them in the path, so they match
# nothing. The pattern of an exact shape has as many as the shape, and needs no such test.
_covering := [found |
	segments := input.resource.properties.segments
	path := concat("/", segments)
	split(path, "/") == segments
	some [format, pattern, length] in data.ostiary.map.routes[input.resource.id].rest
	length < count(segments)
	key := sprintf(format, segments)
	found := data.ostiary.map.routes[input.resource.id].templates[key]
	regex.match(pattern, path)
	not _shadowed(key, segments)
]

# True if a variable, or the first segment that `**` stands for, equals a sibling literal: one that
# another template has at that place after the same prefix. Case is folded in both.
_shadowed(key, segments) if {
	some [place, prefix] in data.ostiary.map.routes[input.resource.id].guards[key]
	_sibling(prefix, segments[place])
}

_guarded(guards, segments) if {
	some [place, prefix] in guards
	_sibling(prefix, segments[place])
}

_sibling(prefix, segment) if {
	folded := lower(strings.replace_n(_lookalikes, segment))
	data.ostiary.map.routes[input.resource.id].siblings[prefix][folded]
}

# What some case-insensitive routers take for a Latin letter, beyond what `lower` knows.
_lookalikes := {"\u017f": "s", "\u0131": "i"}
