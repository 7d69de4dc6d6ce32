package ostiary.requests_test

import data.ostiary.example
import data.ostiary.requests

test_well_formed if requests.well_formed with input as example.request

# Values that are not what they should be: the next type in the order of types, and the one before.
test_not_well_formed[name] if {
	some name, change in {
		"a numeric subject": {"subject": 2},
		"no subject": {"subject": null},
		"a list for a subject": {"subject": ["web"]},
		"an object for an issuer": {"issuer": {}},
		"a true method of proof": {"proof": true},
		"a list of claims": {"claims": []},
		"a numeric method": {"action": 1},
		"a numeric service": {"service": 2},
		"segments that are a text": {"segments": "orders"},
		"segments that are an object": {"segments": {"0": "orders"}},
		"no segment": {"segments": []},
		"a numeric segment": {"segments": ["orders", 42]},
		"a list for a segment": {"segments": ["orders", ["42"]]},
		"a boolean segment": {"segments": [true, "42"]},
		"grants that are none": {"grants": null},
		"a time that is a text": {"time": "1790000000"},
		"a time before time": {"time": -1},
		"a time beyond nanoseconds": {"time": 9000000000},
		"half a second": {"time": 1790000000.5},
	}
	request := example.changed(change)
	not requests.well_formed with input as request
}
