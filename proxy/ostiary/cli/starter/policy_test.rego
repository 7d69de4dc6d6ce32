# `ostiary bundle test policy` runs this with opa test, on the sources and on the bundle that is built of them.
package policy.tests

import data.ostiary.testing
import data.policy

_request(subject) := testing.request({
	"identity": {"issuer": "https://idp.example", "subject": subject},
	"service": "any",
	"request": "GET /",
})

test_a_blocked_subject_is_refused if {
	policy.deny == {"this subject is blocked"} with input as _request("mallory")
}

test_nobody_else_is if {
	policy.deny == set() with input as _request("ann")
}
