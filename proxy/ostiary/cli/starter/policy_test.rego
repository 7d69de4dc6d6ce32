# `ostiary bundle test policy` runs this with opa test, on the sources and on the bundle that is built of them.
package policy.tests

import data.policy

_request(subject) := {"subject": {"id": subject, "properties": {"issuer": "https://idp.example"}}}

test_a_blocked_subject_is_refused if {
	policy.deny == {"this subject is blocked"} with input as _request("mallory")
}

test_nobody_else_is if {
	policy.deny == set() with input as _request("ann")
}
