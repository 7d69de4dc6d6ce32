# METADATA
# description: |
#   judges the grants that came with the request. One counts only if it was given to this issuer and
#   subject, for a caller that the identity still is, and for this endpoint; whether the map still
#   has the eligibility is for the permissions to see
package ostiary.grants

import data.ostiary.callers
import data.ostiary.routes

# METADATA
# description: the grants that count and have not ended
active contains grant if {
	some grant in _own
	grant.expires_at > input.context.time
}

# METADATA
# description: the grants that would count, had they not ended
expired contains grant if {
	some grant in _own
	grant.expires_at <= input.context.time
}

_own contains grant if {
	some grant in input.context.grants
	grant.issuer == input.subject.properties.issuer
	grant.subject == input.subject.id
	grant.caller in callers.names
	grant.service == input.resource.id
	routes.endpoint in grant.endpoints
	is_string(grant.id)
	is_number(grant.expires_at)
}
