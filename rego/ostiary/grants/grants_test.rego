package ostiary.grants_test

import data.ostiary.example
import data.ostiary.fixture
import data.ostiary.grants

_put(given) := example.changed({"action": "PUT", "grants": given})

test_active if {
	given := example.grant({})
	active := grants.active with input as _put([given]) with data.ostiary.map as fixture.map
	active == {given}
	expired := grants.expired with input as _put([given]) with data.ostiary.map as fixture.map
	expired == set()
}

test_expired[name] if {
	some name, instant in {"just now": example.now, "before": example.now - 1}
	given := example.grant({"expires_at": instant})
	active := grants.active with input as _put([given]) with data.ostiary.map as fixture.map
	active == set()
	expired := grants.expired with input as _put([given]) with data.ostiary.map as fixture.map
	expired == {given}
}

test_does_not_count[name] if {
	some name, change in {
		"of another issuer": {"issuer": "https://evil.test"},
		"of another subject": {"subject": "ann"},
		"for a caller that the identity is not": {"caller": "support"},
		"for another service": {"service": "billing"},
		"for another endpoint": {"endpoints": ["get"]},
		"for no endpoint": {"endpoints": []},
		"ending at a text": {"expires_at": "9999999999"},
		"ending never": {"expires_at": null},
		"without an id": {"id": null},
	}
	request := _put([example.grant(change)])
	active := grants.active with input as request with data.ostiary.map as fixture.map
	active == set()
	expired := grants.expired with input as request with data.ostiary.map as fixture.map
	expired == set()
}
