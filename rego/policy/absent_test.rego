package policy.absent_test

import data.policy

test_no_condition_holds[name] if {
	some name in ["", "any"]
	not policy.condition(name, {}, {})
}
