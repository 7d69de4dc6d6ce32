# METADATA
# description: |
#   services that are only observed: until an instant that the map says, what it does not allow their
#   callers is let through, and said to be
package ostiary.observation

import data.ostiary.permissions

# METADATA
# description: |
#   the instant, in seconds, at which the requested service is no longer only observed. Undefined where
#   it is not, or not any more
until := instant if {
	instant := data.ostiary.map.observe[input.resource.id]
	input.context.time < instant
}

# METADATA
# description: |
#   the credential profile of what is let through so: the strictest of all that the callers have for the
#   endpoint, whether it holds or not; else the default
credential := {"lifetime": min(lifetimes), "per_call": true in each_call} if {
	profiles := [variant.credential |
		some found in permissions.terms
		some kind in ["standing", "eligible", "shadow"]
		some variant in found[kind]
	]
	profiles != []
	lifetimes := [profile.lifetime | some profile in profiles]
	each_call := [profile.per_call | some profile in profiles]
} else := {"lifetime": 60, "per_call": false}
