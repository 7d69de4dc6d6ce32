"""The request path. One straight line, the same for every request:

    receive → target → identify → ask → decide → swap → record → forward → complete

Each stage is an interface of `interfaces.py`; what stands behind it, cached or not, is chosen in `app.py`.
"""

from __future__ import annotations

import logging
from functools import partial

from starlette.types import Receive, Scope, Send

from ostiary.errors import AccessError, InternalError
from ostiary.exchange import Exchange
from ostiary.interfaces import (
    AuditLog,
    Authenticator,
    Authorizer,
    Blocklist,
    Concierge,
    CredentialSwapper,
    GrantKeeper,
    Reception,
    Record,
    Recourse,
    RequestBuilder,
    TargetResolver,
    Upstream,
    Warden,
)
from ostiary.models import AccessRequest, Credential, Decision
from ostiary.problem import Problems
from ostiary.target import OWN_SERVICE

_log = logging.getLogger("ostiary.pipeline")


class Pipeline:
    """The ASGI application of the data listener, for scopes of type `http`."""

    def __init__(
        self,
        *,
        audit: AuditLog,
        targets: TargetResolver,
        concierge: Concierge,
        authenticator: Authenticator,
        blocklist: Blocklist,
        requests: RequestBuilder,
        reception: Reception,
        authorizer: Authorizer,
        warden: Warden,
        recourse: Recourse,
        keeper: GrantKeeper,
        swapper: CredentialSwapper,
        upstream: Upstream,
        problems: Problems,
    ) -> None:
        self._audit = audit
        self._targets = targets
        self._concierge = concierge
        self._authenticator = authenticator
        self._blocklist = blocklist
        self._requests = requests
        self._reception = reception
        self._authorizer = authorizer
        self._warden = warden
        self._recourse = recourse
        self._keeper = keeper
        self._swapper = swapper
        self._upstream = upstream
        self._problems = problems

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send)
        decision: Decision | None = None
        with self._audit.record(exchange) as record:  # completes on every exit, cancellation included
            try:
                target = self._targets.resolve(exchange)
                record.resolved(target)
                if await self._concierge.answer(exchange, target):
                    return
                identity = await self._authenticator.identify(exchange)
                record.identified(identity)
                self._blocklist.check(identity)
                request = self._requests.build(exchange, target, identity)
                if target.service == OWN_SERVICE and await self._reception.serve(exchange, request):
                    return
                decision = await self._authorizer.decide(request)
                record.decided(request, decision)
                decision.enforce()  # raises AccessDenied
                self._blocklist.check(identity)  # it may have been blocked while the policy was asked
                with self._warden.admit(exchange, request, decision) as underway:  # cut when it holds no longer
                    await self._keeper.take(underway)
                    credential = await self._swapper.swap(request, decision)
                    await record.commit(credential)  # no record, no access
                    renew = partial(self._renew, record, request, decision)
                    await self._upstream.forward(exchange, target, identity, credential, renew)
            except AccessError as refusal:
                record.refused(refusal)
                offered = None if decision is None else self._recourse.offered(exchange, request, decision)
                await self._problems.answer(exchange, refusal, offered)
            except Exception as error:
                # Whatever was not foreseen is a no, and is recorded as one.
                _log.exception("unforeseen error in exchange %s", exchange.id)
                failure = InternalError(type(error).__name__)
                record.refused(failure)
                await self._problems.answer(exchange, failure)

    async def _renew(self, record: Record, request: AccessRequest, decision: Decision) -> Credential:
        """Another credential for a request that is sent again, recorded like the first."""
        credential = await self._swapper.swap(request, decision)
        await record.commit(credential)
        return credential
