package ostiary.caching_test

import data.ostiary.caching
import data.ostiary.example
import data.ostiary.fixture

_both(changes, hooks, stated) := {"unasked": unasked, "asked": asked} if {
	map := object.union(object.remove(fixture.map, ["hooks"]), {"hooks": hooks})
	unasked := caching.unasked with input as example.changed(changes)
		with data.ostiary.map as map
		with data.policy.caching as stated
	asked := caching.asked with input as example.changed(changes)
		with data.ostiary.map as map
		with data.policy.caching as stated
}

_entry(max_age, vary) := {"max_age": max_age, "vary": vary}

test_what_answers_depend_on[name] if {
	some name, case in {
		"nothing": {"changes": {}, "cache": _entry(5, [])},
		"nothing that is there": {"changes": {"subject": "stranger"}, "cache": _entry(5, [])},
		"no prediction": {"changes": {"predicted": null}, "cache": _entry(5, ["segments"])},
		"a source, also of the caller that was not needed": {
			"changes": {"claims": {"stage": "prod"}, "action": "DELETE", "predicted": "remove"},
			"cache": _entry(5, ["source_ip"]),
		},
		"the source of what may be granted": {
			"changes": {
				"subject": "ann",
				"claims": {"groups": "support"},
				"action": "POST",
				"segments": ["orders", "42", "refund"],
				"predicted": "refund",
			},
			"cache": _entry(5, ["source_ip"]),
		},
		"the query": {
			"changes": {"subject": "limited", "segments": ["orders"], "predicted": "list"},
			"cache": _entry(5, ["query"]),
		},
		"the path": {
			"changes": {"subject": "tenant", "segments": ["tenants", "a", "items"], "predicted": "tenant"},
			"cache": _entry(5, ["segments"]),
		},
		"claims are in every key": {"changes": {"subject": "limited"}, "cache": _entry(5, [])},
		"hours, in the middle of a minute": {"changes": {"subject": "night"}, "cache": _entry(5, [])},
		"hours, at its end": {"changes": {"subject": "night", "time": example.now + 37}, "cache": _entry(3, [])},
		"hours, in its last second": {"changes": {"subject": "night", "time": example.now + 39}, "cache": _entry(1, [])},
		"hours, in its first second": {"changes": {"subject": "night", "time": example.now + 40}, "cache": _entry(5, [])},
		"conditions that state nothing": {"changes": {"subject": "custom"}, "cache": _entry(0, [])},
	}
	cache := _both(case.changes, {}, {})
	cache == {"unasked": case.cache, "asked": case.cache}
}

_custom := {"subject": "custom"}

test_what_conditions_state[name] if {
	some name, case in {
		"both": {
			"stated": {"odd": _entry(3, ["query"]), "even": _entry(4, ["source_ip", "query"])},
			"cache": _entry(3, ["query", "source_ip"]),
		},
		"one of two": {"stated": {"odd": _entry(3, ["query"])}, "cache": _entry(0, ["query"])},
		"more than is allowed": {
			"stated": {"odd": _entry(3600, []), "even": _entry(3600, [])},
			"cache": _entry(5, []),
		},
		"an unknown name": {
			"stated": {"odd": _entry(3, ["weather"]), "even": _entry(4, [])},
			"cache": _entry(0, []),
		},
		"no names": {"stated": {"odd": {"max_age": 3}, "even": _entry(4, [])}, "cache": _entry(0, [])},
		"names that are no list": {"stated": {"odd": _entry(3, "query"), "even": _entry(4, [])}, "cache": _entry(0, [])},
		"no age": {"stated": {"odd": {"vary": []}, "even": _entry(4, [])}, "cache": _entry(0, [])},
		"a text for an age": {"stated": {"odd": _entry("3", []), "even": _entry(4, [])}, "cache": _entry(0, [])},
		"half a second": {"stated": {"odd": _entry(0.5, []), "even": _entry(4, [])}, "cache": _entry(0, [])},
		"a negative age": {"stated": {"odd": _entry(-1, []), "even": _entry(4, [])}, "cache": _entry(0, [])},
	}
	cache := _both(_custom, {}, case.stated)
	cache == {"unasked": case.cache, "asked": case.cache}
}

test_what_hooks_state[name] if {
	some name, case in {
		"nothing": {"hooks": {"deny": true}, "stated": {}, "unasked": _entry(5, []), "asked": _entry(0, [])},
		"deny": {
			"hooks": {"deny": true},
			"stated": {"deny": _entry(2, ["query"])},
			"unasked": _entry(5, ["query"]),
			"asked": _entry(2, ["query"]),
		},
		"both": {
			"hooks": {"deny": true, "allow": true},
			"stated": {"deny": _entry(2, ["query"]), "allow": _entry(3, ["source_ip"])},
			"unasked": _entry(5, ["query", "source_ip"]),
			"asked": _entry(2, ["query", "source_ip"]),
		},
		"only one of two": {
			"hooks": {"deny": true, "allow": true},
			"stated": {"deny": _entry(2, ["query"])},
			"unasked": _entry(5, ["query"]),
			"asked": _entry(0, ["query"]),
		},
	}
	cache := _both({}, case.hooks, case.stated)
	cache == {"unasked": case.unasked, "asked": case.asked}
}

# Where the map has nothing for an identity, its rules cannot apply, and no answer depends on them.
test_hooks_that_cannot_apply if {
	cache := _both({"subject": "stranger"}, {"deny": true}, {"deny": _entry(2, ["query"])})
	cache.unasked == _entry(5, [])
}
