package ostiary.callers_test

import data.ostiary.callers
import data.ostiary.example
import data.ostiary.fixture

_job := {"issuer": "spiffe://shop.test", "subject": "spiffe://shop.test/job"}

_cases := {
	"by subject": {"changes": {}, "names": {"web"}},
	"by subject and claim": {"changes": {"claims": {"stage": "prod"}}, "names": {"web", "web-prod"}},
	"by subject and a claim that is a list": {
		"changes": {"claims": {"stage": ["test", "prod"]}},
		"names": {"web", "web-prod"},
	},
	"by subject, the claim is another": {"changes": {"claims": {"stage": "test"}}, "names": {"web"}},
	"the subject of another issuer": {"changes": {"issuer": "https://evil.test"}, "names": set()},
	"the subject in other letters": {"changes": {"subject": "Web"}, "names": set()},
	"by a claim": {"changes": {"subject": "ann", "claims": {"groups": "helpdesk"}}, "names": {"support"}},
	"by a claim that is a list": {
		"changes": {"subject": "ann", "claims": {"groups": ["x", "support", "helpdesk"]}},
		"names": {"support"},
	},
	"by two claims": {"changes": {"subject": "lee", "claims": {"groups": "lead", "level": "4"}}, "names": {"lead"}},
	"by one claim of two": {"changes": {"subject": "lee", "claims": {"groups": "lead", "level": "2"}}, "names": set()},
	"by a claim that is missing": {"changes": {"subject": "lee", "claims": {"groups": "lead"}}, "names": set()},
	"by claims of no use": {
		"changes": {"subject": "lee", "claims": {"groups": [7, null, {}, ["support"]]}},
		"names": set(),
	},
	"the claim of another issuer": {
		"changes": {"subject": "ann", "issuer": "https://evil.test", "claims": {"groups": "support"}},
		"names": set(),
	},
	"a workload by certificate": {"changes": object.union(_job, {"proof": "mtls"}), "names": {"job"}},
	"a workload by forwarded certificate": {"changes": object.union(_job, {"proof": "xfcc"}), "names": {"job"}},
	"a workload by its own kind of token": {"changes": object.union(_job, {"proof": "jwt-svid"}), "names": {"job"}},
	"a workload that a plain token says": {"changes": object.union(_job, {"proof": "jwt"}), "names": set()},
	"a workload of another trust domain": {
		"changes": object.union(_job, {"proof": "mtls", "issuer": "spiffe://evil.test"}),
		"names": set(),
	},
}

test_names[name] if {
	some name, case in _cases
	request := example.changed(case.changes)
	names := callers.names with input as request with data.ostiary.map as fixture.map
	names == case.names
}
