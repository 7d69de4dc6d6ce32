"""Bundles that must not become active, published to an OPA that demands signatures.

Each would allow `GET /orders/admin/users`, which nobody may: if it ever came to count, that would be forwarded.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

from attacks.runner import amounts
from attacks.runner.corpus import Case, Unintelligible
from attacks.runner.faults import packed
from attacks.runner.forgery import b64
from attacks.runner.labs import Findings, Lab, Place, Press, eventually
from attacks.runner.plans import Attempt, Plan
from attacks.runner.verdicts import judged
from attacks.runner.wire import Conversation

Make = Callable[[Press], Awaitable[bytes]]

_TAKEN: Final = 20.0
"""Seconds for OPA, which polls every second, to have taken what is published and thought about it."""


def bundle_variant(case: Case, told: str) -> Plan:
    """Raises `Unintelligible` for a variant that this runner cannot make."""
    words = told.lower()
    make = next((make for pattern, make in _VARIANTS.items() if re.search(pattern, words)), None)
    if make is None:
        raise Unintelligible(f"{told!r} is no bundle that this runner can make")

    if make in _TAKEN_BY_OPA:
        return Plan(case=case, attempt=_taken(case, make), lab="bundle")

    async def attempt(lab: Lab) -> Findings:
        press: Press = lab.known["press"]
        log, server = lab.known["opa_log"], lab.known["server"]
        said = log.stat().st_size
        content = await make(press)
        server.publish(content)
        refused = await eventually(lambda: _complained(log, said), seconds=_TAKEN)
        found = [] if refused else ["OPA did not say that it refuses the bundle"]
        if server.taken != server.tag and not refused:
            found.append("OPA did not even take it")
        found += await _still_the_old_one(lab, case)
        # What is good is taken again afterwards, so that it was the variant which was refused.
        return found + await _good_again(lab) + await lab.served()

    place = Place(key_named="without keyid" not in words)
    return Plan(case=case, attempt=attempt, lab="bundle", place=place)


async def _good_again(lab: Lab) -> Findings:
    """A good bundle with a higher sequence is taken."""
    press: Press = lab.known["press"]
    press.sequence += 2
    revision = f"{press.sequence}-{'a' * 16}"
    lab.known["server"].publish(await press.signed(_numbered(press.files("good"), revision)))
    if await eventually(lambda: _revision(lab) == revision, seconds=_TAKEN):
        return []
    return ["a good bundle was not taken afterwards"]


def _numbered(files: Mapping[str, bytes], revision: str) -> dict[str, bytes]:
    manifest = {**json.loads(files[".manifest"]), "revision": revision}
    return {**files, ".manifest": json.dumps(manifest).encode()}


def _taken(case: Case, make: Make) -> Attempt:
    """A bundle that OPA takes, since it is well signed: the proxy believes no yes of it."""

    async def attempt(lab: Lab) -> Findings:
        press: Press = lab.known["press"]
        log, server = lab.known["opa_log"], lab.known["server"]
        found = await _good_again(lab) + await lab.served()
        said = log.stat().st_size
        server.publish(await make(press))
        if not await eventually(lambda: _activated(log, said), seconds=_TAKEN):
            found.append("OPA did not take the bundle")
        for path in ("/orders/admin/users", "/orders/123"):
            mark, message = lab.mark(), lab.request(path)
            conversation = Conversation([await lab.ask(message)])
            found += judged(case.expected, await lab.evidence(mark, conversation, message))
        return found + await _good_again(lab) + await lab.served()

    return attempt


def _activated(log: Path, said: int) -> bool:
    with log.open("rb") as file:
        file.seek(said)
        return b"loaded and activated successfully" in file.read()


async def _older(press: Press) -> bytes:
    """A number lower than that of the bundle which is active: OPA does not look at numbers."""
    return await press.signed(_numbered(press.wide, f"{press.sequence - 1}-{'b' * 16}"))


async def _anything(press: Press) -> bytes:
    """A policy that says yes to whatever it is asked."""
    files = _numbered(press.files("good"), f"{press.sequence + 1}-{'c' * 16}")
    ours = {name: text for name, text in files.items() if not name.startswith("ostiary/authz")}
    rego = b'package ostiary.authz\n\ndecision := {"allow": true}\n'
    return await press.signed({**ours, "ostiary/authz/authz.rego": rego})


async def _nothing(press: Press) -> bytes:
    """No policy, no data."""
    manifest = _numbered(press.files("good"), f"{press.sequence + 1}-{'d' * 16}")[".manifest"]
    return await press.signed({".manifest": manifest, "data.json": b"{}"})


async def _unnumbered(press: Press) -> bytes:
    """No manifest, so that nobody can say which bundle it is."""
    return await press.signed({name: text for name, text in press.wide.items() if name != ".manifest"})


async def _delta(press: Press) -> bytes:
    """A patch of the data instead of all of it: such a bundle cannot be signed."""
    manifest = press.files("good")[".manifest"]
    patch = {"data": [{"op": "upsert", "path": "/ostiary/map", "value": {}}]}
    return packed({".manifest": manifest, "patch.json": json.dumps(patch).encode()})


async def _still_the_old_one(lab: Lab, case: Case) -> Findings:
    """The old bundle's answers: what only the new one would allow is denied, what it allows is served."""
    mark = lab.mark()
    conversation = Conversation()
    message = lab.request("/orders/admin/users")
    conversation.answers.append(await lab.ask(message))
    evidence = await lab.evidence(mark, conversation, message)
    return judged(case.expected, evidence) + await lab.served()


def _complained(log: Path, said: int) -> bool:
    with log.open("rb") as file:
        file.seek(said)
        return re.search(rb"Bundle load failed|ctivation failed", file.read()) is not None


def _revision(lab: Lab) -> object:
    assert lab.proxy is not None
    return lab.proxy.health()[1].get("revision")


# The variants. Each begins with the files that would allow too much.


async def _unsigned(press: Press) -> bytes:
    return packed(press.wide)


async def _symmetric(press: Press) -> bytes:
    """HMAC, with the public key that OPA has as the secret."""
    return await press.signed(press.wide, key="publisher.pub", algorithm="HS256")


async def _none(press: Press) -> bytes:
    files = await press.with_signature(press.wide)
    (token,) = json.loads(files[".signatures.json"])["signatures"]
    header = b64(json.dumps({"alg": "none", "kid": press.KEY_ID}).encode())
    forged = f"{header}.{token.split('.')[1]}."
    return packed({**files, ".signatures.json": json.dumps({"signatures": [forged]}).encode()})


async def _no_tokens(press: Press) -> bytes:
    """The file of signatures is there, and holds none."""
    return packed({**press.wide, ".signatures.json": b'{"signatures":[]}'})


async def _two(press: Press) -> bytes:
    """A stranger's signature beside the publisher's."""
    found = [json.loads((await press.with_signature(press.wide, key=key))[".signatures.json"]) for key in _SIGNERS]
    tokens = [token for one in found for token in one["signatures"]]
    return packed({**press.wide, ".signatures.json": json.dumps({"signatures": tokens}).encode()})


_SIGNERS: Final = ("publisher.pem", "stranger.pem")


async def _stranger(press: Press) -> bytes:
    return await press.signed(press.wide, key="stranger.pem")


async def _other_scope(press: Press) -> bytes:
    return await press.signed(press.wide, scope="write")


async def _other_key_id(press: Press) -> bytes:
    return await press.signed(press.wide, key="stranger.pem", key_id="other", scope="write")


async def _more_files(press: Press) -> bytes:
    """A file that the signature does not list."""
    files = await press.with_signature()
    more = b"package policy\n\nallow := true\n"
    return packed({**files, "policy/zz_more.rego": more})


async def _changed(press: Press) -> bytes:
    """The files of one bundle with the signature of another."""
    files = await press.with_signature()
    return packed({**press.wide, ".signatures.json": files[".signatures.json"]})


async def _less_files(press: Press) -> bytes:
    """A file that is listed is missing."""
    files = await press.with_signature()
    gone = next(name for name in files if name.endswith(".rego"))
    return packed({name: content for name, content in files.items() if name != gone})


async def _bomb(press: Press) -> bytes:
    """A file of a hundred megabytes that is as good as nothing on the way."""
    files = {**press.wide, "bomb.json": b" " * (100 << 20)}
    return await asyncio.to_thread(packed, files)


async def _truncated(press: Press) -> bytes:
    content = await press.signed(press.wide)
    return content[: len(content) // 2]


async def _garbage(press: Press) -> bytes:
    return amounts.filler(b"x", 4096).whole()


async def _traversal(press: Press) -> bytes:
    files = await press.with_signature(press.wide)
    return packed({**files, "../../etc/evil.json": b"{}"})


async def _rego(press: Press) -> bytes:
    """Signed, and not compilable."""
    return await press.signed({**press.files("good"), "policy/zz.rego": b"package policy\n\nallow if {"})


async def _other_roots(press: Press) -> bytes:
    """Signed, with files that are outside of what the manifest says it is about."""
    manifest = {**json.loads(press.wide[".manifest"]), "roots": ["elsewhere"]}
    return await press.signed({**press.wide, ".manifest": json.dumps(manifest).encode()})


_VARIANTS: Final[dict[str, Make]] = {
    r"rollback|roll(ed)? back|older|downgrade|lower (revision|sequence)|previous revision|replay": _older,
    r"allows? (everything|all\b|anything)|default allow|allow := true|probe": _anything,
    r"(empty|no)( list| array)?( of)? signatures|signatures?( array| list)?( is)? empty": _no_tokens,
    r"two signatures|second signature|(multiple|several) signatures": _two,
    r"^empty$|empty bundle|no (policy|rules)|without (a )?policy": _nothing,
    r"(no|without|missing)( a)? manifest|manifest (is )?missing": _unnumbered,
    r"outside( of)?( the| its)? roots?|(wrong|other|different|overlapping) roots?": _other_roots,
    r"delta|patch": _delta,
    r"hs256|hmac|symmetric": _symmetric,
    r"alg\W+none|\bnone\b": _none,
    r"removed|stripped|unsigned|without (a )?signature|no signature|missing signature": _unsigned,
    r"bomb|huge|oversized": _bomb,
    r"truncated|cut off": _truncated,
    r"travers|\.\./|zip slip|symlink": _traversal,
    r"scope.*keyid|keyid.*scope|(other|unknown|wrong) key ?id|key ?id (unknown|wrong)": _other_key_id,
    r"scope": _other_scope,
    r"another key|attacker|stranger|wrong key|other key|untrusted": _stranger,
    r"(extra|additional|unlisted|not listed|added).*file|file.*(not|un)\W?listed|file added": _more_files,
    r"lists (only )?(half|some)": _more_files,
    r"(missing|deleted|less).*file|file.*(missing|deleted)": _less_files,
    r"hash|tamper|modif|changed|swapped|replaced|mismatch|other bundle": _changed,
    r"garbage|not gzip|not a bundle|corrupt": _garbage,
    r"syntax|compile|invalid rego|broken rego": _rego,
}
"""Words of a variant to how it is made; the first that is found counts."""

_TAKEN_BY_OPA: Final = frozenset({_older, _anything, _nothing, _unnumbered})
"""Those that are well signed, so that it is the proxy which has to see what they are."""
