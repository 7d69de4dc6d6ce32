"""What `ostiary bundle report` writes: a comparison as Markdown, for a pull request.

The names, claims and texts in it were written by whoever wants the change. So each stands in a code span or is one of
our own words, and no text of theirs can be a heading, a link, a mention or HTML.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

from ostiary.errors import ConfigurationError
from ostiary.models import Json
from ostiary.policy.replay import markdown as replayed
from ostiary.policy.review.spans import code, listed, side, some

LARGEST: Final = 60_000
"""Characters: a comment on GitHub has 65,536 at most."""

NO_DOCUMENT: Final = "is not a document of 'ostiary bundle diff --json' or 'ostiary replay --json'"
"""The mistake in a file that is none."""

_RULES: Final = {"widening": "**widens**", "narrowing": "narrows", "unjudged": "**cannot be judged**"}
_VERBS: Final = {"gained": "gain", "lost": "lose", "changed": "change at"}


def render(documents: Iterable[tuple[str, Mapping[str, Json]]]) -> str:
    """Each document (`ostiary bundle diff --json`, `ostiary replay --json`) as a section. Before it is what to call it.

    Raises `ConfigurationError` for one of an unknown kind.
    """
    sections: list[str] = []
    for name, document in documents:
        section = SECTIONS.get(str(document.get("kind")))
        if section is None:
            raise ConfigurationError([f"{name}: {NO_DOCUMENT}"])
        try:
            sections.append(_bounded(section(document)))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ConfigurationError([f"{name}: is not the {document['kind']} that it says it is"]) from error
    return "\n\n".join(sections) + "\n"


def _diff(document: Mapping[str, Json]) -> Iterator[str]:
    widening = [each for each in document["access"] if each["widening"]]
    others = [each for each in document["access"] if not each["widening"]]
    yield "## Policy: " + ("**more is let through**" if document["widening"] else "nothing more is let through")
    yield ""
    yield f"From {side(document['old'])} to {side(document['new'])}."
    yield from listed("Observed", (line for each in document["observed"] for line in _observed(each)))
    yield from listed("Widened", (line for each in widening for line in _access(each)))
    yield from listed("Rules", map(_rule, document["rules"]))
    yield from listed("Narrowed", (line for each in others for line in _access(each)))
    yield from listed("Callers", (_name(each) for each in document["callers"]))
    yield from listed("Endpoints", (_name(each) for each in document["endpoints"]))
    if not any(document[name] for name in ("observed", "access", "rules", "callers", "endpoints")):
        yield ""
        yield "Both let the same through."


SECTIONS: Final[Mapping[str, Callable[[Mapping[str, Json]], Iterator[str]]]] = {
    "diff": _diff,
    "replay": replayed.section,
}
"""The kinds of documents, each with what writes its section."""


def _bounded(lines: Iterable[str]) -> str:
    """As much as a comment may hold, by whole lines; widenings come first, and what is left out is counted."""
    kept: list[str] = []
    length = left = 0
    for line in lines:
        length += len(line) + 1
        if length <= LARGEST:
            kept.append(line)
        else:
            left += 1
    return "\n".join([*kept, *(["", f"… and {left} more lines."] if left else [])])


def _access(change: Mapping[str, Json]) -> Iterator[str]:
    verb = _VERBS[change["kind"]]
    if len(change["callers"]) == 1:
        verb = {"gain": "gains", "lose": "loses", "change at": "changes at"}[verb]
    yield f"- {some(change['callers'])} {verb} {_where(change['endpoints'])}"
    told: list[tuple[str, Sequence[str]]] = []
    if change["before"] != change["after"]:
        told += [("was", change["before"]), ("is", change["after"])]
    told += [("wider", change["wider"]), ("narrower", change["narrower"])]
    yield from (f"  - {word}: {code(text)}" for word, texts in told for text in texts)


def _observed(change: Mapping[str, Json]) -> Iterator[str]:
    service, before, after = (code(change[name]) for name in ("service", "before", "after"))
    widens = "**widens**: " if change["widening"] else ""
    was = {"added": "", "kept": ", as before"}.get(change["kind"], f", and was until {before}")
    if change["after"] is None:
        yield f"- {service} is observed no more{was}"
    else:
        everywhere = "**every caller is let through everywhere**"
        yield f"- {widens}{service} is only observed until {after}{was}: {everywhere}"
    yield from (f"  - wider: {code(text)}" for text in change["wider"])


def _where(endpoints: Iterable[Mapping[str, Json]]) -> str:
    by_service: dict[str, list[str]] = {}
    for each in endpoints:
        by_service.setdefault(each["service"], []).append(f"{each['endpoint']}: {each['request']}")
    return "; ".join(f"{code(service)}: {some(names)}" for service, names in by_service.items())


def _rule(change: Mapping[str, Json]) -> str:
    kind = str(change["kind"])
    if kind not in ("added", "removed", "changed"):
        raise ValueError(kind)
    return f"- {code(change['rule'])} {kind}: {_RULES[change['effect']]}"


def _name(change: Mapping[str, Json]) -> str:
    where = f"{code(change['service'])}: " if "service" in change else ""
    named = f"- {where}{code(change['name'])}"
    if change["kind"] == "renamed":
        return f"{named} was called {code(change['was'])}, {code(change['after'])}"
    if change["before"] is None or change["after"] is None:
        return (
            f"{named} {'added' if change['before'] is None else 'removed'}, {code(change['after'] or change['before'])}"
        )
    return f"{named} was {code(change['before'])}, is {code(change['after'])}"
