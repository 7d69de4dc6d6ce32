package ostiary.routes_test

import data.ostiary.example
import data.ostiary.fixture
import data.ostiary.routes

_found := [
	{"segments": [""], "endpoint": "root"},
	{"segments": ["orders"], "endpoint": "list"},
	{"segments": ["orders", ""], "endpoint": "slash"},
	{"segments": ["orders", "42"], "endpoint": "get"},
	{"segments": ["orders", "admin", "users"], "endpoint": "admin"},
	{"segments": ["orders", "42", "lines", "7"], "endpoint": "lines"},
	{"segments": ["files", "a"], "endpoint": "files"},
	{"segments": ["files", "a", "b"], "endpoint": "own-files"},
	{"segments": ["files", "a", "special"], "endpoint": "special"},
	{"segments": ["files", "a.b", "c"], "endpoint": "files"},
	{"segments": ["files", "a", "Special"], "endpoint": "files"},
	{"segments": ["files", "a", "b", "...", "~x"], "endpoint": "own-files"},
	{"segments": ["docs", "a", "b"], "endpoint": "docs"},
	{"segments": ["shelves", "s", "a"], "endpoint": "shelf"},
	{"segments": ["notes", "naïve"], "endpoint": "notes"},
	{"segments": ["notes", "a:b@c"], "endpoint": "notes"},
	{"segments": ["notes", "..."], "endpoint": "notes"},
	{"segments": ["notes", ".x"], "endpoint": "notes"},
	{"segments": ["notes", "sis"], "endpoint": "plain-note"},
]

test_found[path] if {
	some case in _found
	path := concat("/", case.segments)
	request := example.changed({"segments": case.segments})
	routes.endpoint == case.endpoint with input as request with data.ostiary.map as fixture.map
}

_nothing := [
	["order"],
	["orders", "admin"],
	["orders", "Admin"],
	["orders", "ADMIN", "users"],
	["orders", "42", "lines"],
	["orders", "42", "lines", "07"],
	["orders", "42", "lines", ""],
	["orders", ".."],
	["orders/42"],
	["orders", "4/2"],
	["=orders", "42"],
	["orders", "{}name"],
	["files"],
	["files", ""],
	["files", "a", ""],
	["files", "a", ".."],
	["files", "."],
	["files", "a/b"],
	["files", "a", "b/c"],
	["files", "a b"],
	["notes", "SIS"],
	["notes", "ſis"],
	["notes", "sıs"],
	["notes", "."],
	["notes", ".."],
	["notes", "a b"],
	["notes", "a\nb"],
	["notes", "a%b"],
	["a", "b", "c", "d", "e", "f", "g"],
]

test_nothing[path] if {
	some segments in _nothing
	path := concat("|", segments)
	request := example.changed({"segments": segments})
	not routes.endpoint with input as request with data.ostiary.map as fixture.map
}

# The template that matches is the resource, whatever its methods.
test_a_method_is_no_reason_to_look_further if {
	request := example.changed({"segments": ["any", "x"], "action": "DELETE"})
	not routes.endpoint with input as request with data.ostiary.map as fixture.map
	methods := routes.methods with input as request with data.ostiary.map as fixture.map
	methods == {"GET": "anything", "POST": "write", "HEAD": "report"}
}

test_methods_of_a_covering_template if {
	request := example.changed({"segments": ["files", "a"]})
	methods := routes.methods with input as request with data.ostiary.map as fixture.map
	methods == {"GET": "files"}
}

test_prediction if {
	routes.as_predicted with input as example.request with data.ostiary.map as fixture.map
	routes.as_predicted with input as json.remove(example.request, ["/resource/properties/endpoint"])
		with data.ostiary.map as fixture.map
	not routes.as_predicted with input as example.changed({"predicted": "put"}) with data.ostiary.map as fixture.map
	not routes.as_predicted with input as example.changed({"predicted": 7}) with data.ostiary.map as fixture.map
}
