"""Publishing a bundle: in the place of the one that is there, as a whole, and never an older in the place of a newer
one, unless that is said.

A target says what it has, and takes a bundle in the place of exactly that. Where something else came between, it is
looked at again. A target that cannot compare and replace in one step (an OCI registry, an HTTP server without
entity tags) replaces as a whole all the same, but of two that publish there in the same moment the later one wins.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, Protocol, Self, TypeAlias

from ostiary.decision.revision import Revision
from ostiary.distribution.archives import Archive, BundleRefused, ExaminedStatement, Examiner

Outcome: TypeAlias = Literal["published", "unchanged"]

_ATTEMPTS: Final = 5


class PublishFailed(Exception):
    """It was not published. The message is one sentence."""


class TargetChanged(Exception):
    """What is there is not what was found before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a target has. `revision` is None if it is no bundle that says its revision; `digest`, the SHA-256 of its
    bytes, if that is not known. `token` is what the target knows this very content by."""

    revision: Revision | None
    digest: str | None
    token: object

    @classmethod
    def read(cls, content: bytes, examiner: Examiner, *, token: object) -> Self:
        """What these bytes say themselves: somebody else's tool may have published them."""
        try:
            revision = examiner.peek(content)
        except BundleRefused:
            revision = None
        return cls(revision=revision, digest=hashlib.sha256(content).hexdigest(), token=token)


class Target(Protocol):
    """All of it blocks, and raises `PublishFailed`."""

    def find(self) -> Found | None:
        """What is there; None for nothing."""

    def put(self, archive: Archive, *, instead_of: Found | None, force: bool) -> None:
        """Publish in the place of what was found. Raises `TargetChanged`."""

    def put_statement(self, content: bytes) -> None:
        """Publish beside the bundle, in the place of whatever is there. Raises as `put` does."""


def publish(
    archive: Archive,
    target: Target,
    *,
    force: bool = False,
    statement: ExaminedStatement | None = None,
    warn: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """`force` lets an older bundle replace a newer one, or what is none. So does a `statement` by which proxies go back
    to this bundle; it is published first, since a proxy that has the bundle looks for it. `warn` is told of what was
    done all the same.

    Blocks; raises `PublishFailed`.
    """
    for _ in range(_ATTEMPTS):
        found = target.find()
        unchanged = found is not None and found.digest == archive.digest
        if found is not None and not unchanged and not force:
            _refuse_what_does_not_follow(archive, found, statement)
        try:
            if statement is not None:
                target.put_statement(statement.content)
            if unchanged:
                return "unchanged"
            target.put(archive, instead_of=found, force=force or statement is not None)
        except TargetChanged:
            continue
        if found is not None and found.revision is not None and archive.revision.is_twin(found.revision):
            warn(
                f"{archive.revision} takes the place of {found.revision}, which has the same sequence: proxies "
                "cannot tell which of them is older, and take either; give each its own --sequence when it is built"
            )
        return "published"
    raise PublishFailed("somebody else publishes there all the time")


def _refuse_what_does_not_follow(archive: Archive, found: Found, statement: ExaminedStatement | None) -> None:
    if found.revision is None:
        raise PublishFailed("what is there is no bundle that says its revision; --force replaces it")
    if statement is not None and found.revision.sequence > statement.said.back_from.sequence:
        raise PublishFailed(
            f"{found.revision} is published, and the statement takes back what is not newer than "
            f"{statement.said.back_from}: proxies that had the newer one do not believe it"
        )
    if statement is None and not archive.revision.may_follow(found.revision):
        raise PublishFailed(
            f"{archive.revision} is older than {found.revision}, which is published; build the older policy again "
            "with a higher sequence, or replace it with --force, and proxies that had the newer one refuse it"
        )
