"""The stage that decides: asks the policy, and trusts the answer only as far as it can be checked."""
