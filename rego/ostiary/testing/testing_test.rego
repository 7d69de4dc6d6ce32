package ostiary.testing_test

import data.ostiary.authz
import data.ostiary.callers
import data.ostiary.fixture
import data.ostiary.testing

_get := {"caller": "web", "service": "shop", "request": "GET /orders/42"}

test_a_request_is_as_the_proxy_makes_it if {
	described := testing.request(object.union(_get, {"request": "GET /orders/42?page=2&q=a=b&all"}))
		with data.ostiary.map as fixture.map
	described == {
		"subject": {
			"type": "workload",
			"id": "web",
			"properties": {"issuer": "https://idp.test", "method": "jwt", "claims": {}},
		},
		"action": {"name": "GET"},
		"resource": {
			"type": "service",
			"id": "shop",
			"properties": {"segments": ["orders", "42"], "query": [["page", "2"], ["q", "a=b"], ["all", ""]]},
		},
		"context": {"time": testing.now, "source_ip": testing.nowhere, "actor": null, "grants": []},
	}
}

test_the_time_that_is_not_said_is_a_monday if {
	time.parse_rfc3339_ns("2026-03-02T10:00:00Z") == testing.now * 1000000000
	time.weekday(testing.now * 1000000000) == "Monday"
}

test_all_that_can_be_said if {
	described := testing.request({
		"caller": "support",
		"subject": "ann",
		"claims": {"level": "3"},
		"service": "shop",
		"request": "POST /orders/42/refund",
		"from": "10.0.0.7",
		"at": "2026-09-20T10:00:00.9+02:00",
		"granted": ["refund"],
	}) with data.ostiary.map as fixture.map
	described == {
		"subject": {
			"type": "workload",
			"id": "ann",
			"properties": {
				"issuer": "https://idp.test",
				"method": "jwt",
				"claims": {"groups": "helpdesk", "level": "3"},
			},
		},
		"action": {"name": "POST"},
		"resource": {
			"type": "service",
			"id": "shop",
			"properties": {"segments": ["orders", "42", "refund"], "query": []},
		},
		"context": {
			"time": 1789891200,
			"source_ip": "10.0.0.7",
			"actor": null,
			"grants": [{
				"id": "g-1",
				"caller": "support",
				"issuer": "https://idp.test",
				"subject": "ann",
				"service": "shop",
				"endpoints": ["refund"],
				"expires_at": 1789892100,
			}],
		},
	}
}

test_a_caller_s_identity_is_that_caller if {
	every caller in ["web", "job", "lead", "support", "web-prod"] {
		proved := testing.subject({"caller": caller}) with data.ostiary.map as fixture.map
		names := callers.names with data.ostiary.map as fixture.map with input as {"subject": proved}
		caller in names
	}
}

test_a_stranger_is_described if {
	testing.subject({"identity": {"issuer": "https://other.test", "subject": "eve"}}) == {
		"type": "workload",
		"id": "eve",
		"properties": {"issuer": "https://other.test", "method": "jwt", "claims": {}},
	}
	testing.subject({"identity": {"spiffe": "spiffe://shop.test/some/job"}}) == {
		"type": "workload",
		"id": "spiffe://shop.test/some/job",
		"properties": {"issuer": "spiffe://shop.test", "method": "mtls", "claims": {}},
	}
}

test_a_decision_is_the_one_on_the_request if {
	described := testing.request(_get) with data.ostiary.map as fixture.map
	decided := testing.decision(_get) with data.ostiary.map as fixture.map
	asked := authz.decision with data.ostiary.map as fixture.map with input as described
	decided == asked
	decided.allow
}

test_a_grant_lets_through if {
	put := object.union(_get, {"request": "PUT /orders/42"})
	without := testing.decision(put) with data.ostiary.map as fixture.map
	without.reasons == ["grant-required"]
	decided := testing.decision(object.union(put, {"granted": ["put"]})) with data.ostiary.map as fixture.map
	decided.grant == "g-1"
}

# What is not understood is no request, so no test holds for the wrong one.
test_what_is_not_understood_is_undefined if {
	every wrong in [
		{"caler": "web"},
		{"caller": "nobody"},
		{"request": "GET orders"},
		{"request": "GET /orders/%34"},
		{"request": "GET /orders?a=1?b"},
		{"request": "GET  /orders"},
		{"at": "today"},
		{"identity": {"issuer": "https://idp.test", "subject": "web"}},
	] {
		count([described |
			described := testing.request(object.union(_get, wrong)) with data.ostiary.map as fixture.map
		]) == 0
	}
}
