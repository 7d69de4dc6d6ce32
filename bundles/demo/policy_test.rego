# Run on these sources and on the bundle that is built of them by `ostiary bundle test bundles/demo`.
# `testing.decision` asks for the whole decision, so map and rules are tested together.
package policy.tests

import data.ostiary.testing
import data.policy

_list := {"caller": "web", "service": "orders", "request": "GET /orders"}

_refund := {
	"caller": "support",
	"subject": "ann",
	"service": "billing",
	"request": "POST /charges/7/refund",
}

_granted := object.union(_refund, {"granted": ["refund"]})

test_orders_are_listed if testing.decision(_list).allow

test_not_all_of_them_at_once if {
	decision := testing.decision(object.union(_list, {"request": "GET /orders?page=all"}))
	decision.allow == false
	decision.reasons == ["policy-denied: orders are listed a page at a time"]
}

test_a_refund_takes_a_grant if {
	decision := testing.decision(_refund)
	decision.allow == false
	decision.reasons == ["grant-required"]
	decision.requestable.approvers == ["support-lead"]
}

test_refunds_on_weekdays if {
	decision := testing.decision(object.union(_granted, {"at": "2026-09-21T10:00:00Z"}))
	decision.allow
	decision.grant == "g-1"
}

test_no_refunds_on_sundays if {
	decision := testing.decision(object.union(_granted, {"at": "2026-09-20T10:00:00Z"}))
	decision.reasons == ["policy-denied: no refunds on sundays"]
}

# A rule can also be asked by itself.
test_issued_by if {
	request := testing.request(_list)
	policy.condition("issued-by", ["http://idp.localhost"], request)
	not policy.condition("issued-by", ["https://elsewhere.test"], request)
}
