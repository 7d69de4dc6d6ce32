"""`make bench-rego`: what the policy costs in OPA. The method is in README.md."""

from benchmarks.rego.questions import permission_map as permission_map
from benchmarks.rego.questions import questions as questions
