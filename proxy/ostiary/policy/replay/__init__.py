"""Replaying recorded decisions: what another policy would have answered to the requests that there were."""
