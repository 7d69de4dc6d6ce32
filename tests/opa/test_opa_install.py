"""Getting OPA: each way, each way failing, and the sentence that says so. Release host and Go are small stand-ins."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from ostiary.opa.install import FLOOR, OpaNotFound, Sources, accept_opa, ensure_opa
from ostiary.opa.release import Release


def program(version: str = "1.22.2", *, status: int = 0) -> bytes:
    """Something that says it is an OPA of this version."""
    return f"#!/bin/sh\n# {version}\n[ \"$1\" = version ] && echo 'Version: {version}'\nexit {status}\n".encode()


def place(folder: Path, content: bytes, name: str = "opa") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(content)
    path.chmod(0o755)
    return path


ASSET = Release.asset() or "none"


@pytest.fixture
def host(httpserver: HTTPServer) -> Callable[..., Release]:
    """A release host with one program. `path` is where each version's directory is."""

    def serve(content: bytes = program(), checksum: str | None = None, version: str = "1.22.2") -> Release:
        published = f"{checksum or hashlib.sha256(content).hexdigest()}  {ASSET}\n"
        httpserver.expect_request(f"/v{version}/{ASSET}").respond_with_data(content)
        httpserver.expect_request(f"/v{version}/{ASSET}.sha256").respond_with_data(published)
        return Release(base=httpserver.url_for("").rstrip("/"))

    return serve


class Places:
    """Where this test's OPA may come from: nowhere, until something is put there."""

    def __init__(self, root: Path) -> None:
        self.path = root / "bin"
        self.path.mkdir()
        self.cache = root / "cache"
        self.release = Release(base="http://127.0.0.1:1/none")
        self.said: list[str] = []

    def ensure(self, **more: Any) -> Path:
        return ensure_opa(
            cache_dir=self.cache,
            sources=Sources(search=str(self.path), release=self.release),
            override="",
            progress=self.said.append,
            **more,
        )

    def failure(self, **more: Any) -> str:
        with pytest.raises(OpaNotFound) as failed:
            self.ensure(**more)
        return str(failed.value)

    def go(self, script: str) -> None:
        place(self.path, f"#!/bin/sh\nexport PATH=/usr/bin:/bin\n{script}\n".encode(), "go")

    def left(self) -> list[str]:
        return sorted(str(path.relative_to(self.cache)) for path in self.cache.rglob("*") if path.is_file())


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path)


class TestOnPath:
    @pytest.mark.parametrize("version", ["1.21.3", "1.22.2", "1.23.0", "2.0.0", "1.100.0"])
    def test_a_good_one_is_used(self, places: Places, version: str) -> None:
        found = place(places.path, program(version))
        assert places.ensure() == found
        assert not places.cache.exists()

    @pytest.mark.parametrize(
        ("version", "why"),
        [
            ("1.21.2", "is version 1.21.2 and 1.21.3 is the least"),
            ("1.21.3-rc1", "is version 1.21.3 and 1.21.3 is the least"),
            ("0.70.0", "is version 0.70.0 and 1.21.3 is the least"),
            ("unknown", "is not an OPA that runs"),
        ],
    )
    def test_another_is_not(self, places: Places, version: str, why: str) -> None:
        place(places.path, program(version))
        assert why in places.failure()

    @pytest.mark.parametrize("content", [b"", b"\x7fELF", program(status=1), b"#!/bin/sh\necho 1.22.2\n"])
    def test_what_is_not_opa_is_not(self, places: Places, content: bytes) -> None:
        place(places.path, content)
        assert "is not an OPA that runs" in places.failure()

    def test_a_later_good_one_is_used(self, places: Places, tmp_path: Path) -> None:
        place(places.path, program("1.0.0"))
        good = place(tmp_path / "later", program())
        sources = Sources(search=f"{places.path}{os.pathsep}{tmp_path / 'later'}", release=places.release)
        assert ensure_opa(cache_dir=places.cache, sources=sources, override="") == good

    def test_a_relative_entry_of_path_is_not_looked_at(
        self, places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        place(tmp_path / "here", program())
        monkeypatch.chdir(tmp_path / "here")
        with pytest.raises(OpaNotFound):
            ensure_opa(
                cache_dir=places.cache, sources=Sources(search=f".{os.pathsep}", release=places.release), override=""
            )


class TestOverride:
    def test_is_used_and_nothing_else_is_looked_at(self, places: Places, tmp_path: Path) -> None:
        place(places.path, program())
        chosen = place(tmp_path / "chosen", program("1.23.0"))
        assert ensure_opa(cache_dir=places.cache, override=str(chosen)) == chosen

    @pytest.mark.parametrize("content", [program("1.20.0"), program("1.2.3"), b"x"])
    def test_has_to_be_good_too(self, places: Places, tmp_path: Path, content: bytes) -> None:
        place(places.path, program())
        chosen = place(tmp_path / "chosen", content)
        with pytest.raises(OpaNotFound, match="The OPA that OSTIARY_OPA names cannot be used"):
            ensure_opa(cache_dir=places.cache, override=str(chosen))

    @pytest.mark.parametrize("content", [program("1.20.0"), program("1.2.3"), b"x"])
    def test_so_does_the_one_that_is_configured(self, tmp_path: Path, content: bytes) -> None:
        good = place(tmp_path / "good", program())
        assert accept_opa(good) == good
        with pytest.raises(OpaNotFound, match="The OPA that is configured cannot be used"):
            accept_opa(place(tmp_path / "bad", content))

    def test_is_an_environment_variable(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        chosen = place(tmp_path / "chosen", program())
        monkeypatch.setenv("OSTIARY_OPA", str(chosen))
        assert ensure_opa() == chosen


class TestRelease:
    def test_is_fetched_once_checked_and_kept(
        self, places: Places, host: Callable[..., Release], httpserver: HTTPServer
    ) -> None:
        places.release = host()
        found = places.ensure()
        assert found == places.cache / "1.22.2" / "opa"
        assert (found.read_bytes(), stat.S_IMODE(found.stat().st_mode)) == (program(), 0o755)
        assert places.said == [f"Fetching OPA 1.22.2 from {places.release.base}/v1.22.2/{ASSET}."]
        httpserver.clear()
        assert places.ensure() == found
        assert places.left() == ["1.22.2/.lock", "1.22.2/opa"]

    def test_with_another_checksum_than_the_published_is_not_used(
        self, places: Places, host: Callable[..., Release]
    ) -> None:
        places.release = host(checksum="0" * 64)
        assert "does not have the checksum that is published beside it" in places.failure()
        assert places.left() == ["1.22.2/.lock"]

    def test_is_checked_against_a_pin(self, places: Places, host: Callable[..., Release]) -> None:
        places.release = host()
        assert "does not have the checksum that is asked for" in places.failure(checksum="0" * 64)
        assert places.left() == ["1.22.2/.lock"]
        assert places.ensure(checksum=hashlib.sha256(program()).hexdigest().upper()).exists()

    @pytest.mark.parametrize("published", ["", "x", "0" * 63, f"{'0' * 64} other_program", "0" * 5000])
    def test_without_a_proper_checksum_is_not_used(
        self, places: Places, httpserver: HTTPServer, published: str
    ) -> None:
        httpserver.expect_request(f"/v1.22.2/{ASSET}").respond_with_data(program())
        httpserver.expect_request(f"/v1.22.2/{ASSET}.sha256").respond_with_data(published)
        places.release = Release(base=httpserver.url_for("").rstrip("/"))
        assert f"the checksum of {ASSET} is not one" in places.failure()

    def test_that_turns_out_to_be_too_old_is_not_used(self, places: Places, host: Callable[..., Release]) -> None:
        places.release = host(program("1.20.0"))
        assert "1.20.0 and 1.21.3 is the least" in places.failure()
        assert places.left() == ["1.22.2/.lock"]

    def test_that_breaks_off_leaves_nothing(self, places: Places, httpserver: HTTPServer) -> None:
        def broken(request: Request) -> Response:
            return Response(iter([b"#!/bin/sh\n"]), headers={"Content-Length": "1000"}, direct_passthrough=True)

        httpserver.expect_request(f"/v1.22.2/{ASSET}").respond_with_handler(broken)
        httpserver.expect_request(f"/v1.22.2/{ASSET}.sha256").respond_with_data("0" * 64)
        places.release = Release(base=httpserver.url_for("").rstrip("/"))
        assert "RemoteProtocolError" in places.failure()
        assert places.left() == ["1.22.2/.lock"]

    def test_is_found_behind_a_redirect(
        self, places: Places, host: Callable[..., Release], httpserver: HTTPServer
    ) -> None:
        base = host().base
        for name in (ASSET, f"{ASSET}.sha256"):
            httpserver.expect_request(f"/moved/v1.22.2/{name}").respond_with_data(
                "", status=302, headers={"Location": f"{base}/v1.22.2/{name}"}
            )
        places.release = Release(base=f"{base}/moved")
        assert places.ensure().exists()

    def test_is_not_fetched_from_elsewhere_without_https(self, places: Places, httpserver: HTTPServer) -> None:
        httpserver.expect_request(f"/v1.22.2/{ASSET}.sha256").respond_with_data(
            "", status=302, headers={"Location": "http://127.0.0.2:1/opa"}
        )
        places.release = Release(base=httpserver.url_for("").rstrip("/").replace("localhost", "127.0.0.1"))
        assert "127.0.0.2 was to be asked without https" in places.failure()
        places.release = Release(base="http://opa.test")
        assert "opa.test was to be asked without https" in places.failure()


class TestGo:
    BUILD = 'echo "go: downloading opa"; [ "$CGO_ENABLED" = 0 ] || exit 9; cp "{source}" "$GOBIN/opa"'

    def test_builds_it_into_the_cache(self, places: Places, tmp_path: Path) -> None:
        source = place(tmp_path / "source", program())
        asked = '[ "$*" = "install github.com/open-policy-agent/opa@v1.22.2" ] || exit 8'
        places.go(f"{asked}\n{self.BUILD.format(source=source)}")
        assert places.ensure() == places.cache / "1.22.2" / "opa"
        failed = f"http://127.0.0.1:1/none/v1.22.2/{ASSET} failed (ConnectError: [Errno 111] Connection refused)"
        assert places.said[1:] == [
            f"The release was not got: {failed}.",
            "Building OPA 1.22.2 with `go install`, which takes some minutes the first time.",
            "go: downloading opa",
        ]
        assert places.left() == ["1.22.2/.lock", "1.22.2/opa"]

    def test_builds_for_this_machine_whatever_the_environment(
        self, places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("GOOS", "plan9")
        source = place(tmp_path / "source", program())
        places.go(f'[ -z "$GOOS" ] || exit 7\n{self.BUILD.format(source=source)}')
        assert places.ensure().exists()

    def test_is_not_used_with_a_pin(self, places: Places, tmp_path: Path) -> None:
        source = place(tmp_path / "source", program())
        places.go(self.BUILD.format(source=source))
        assert "cannot have the checksum that is asked for" in places.failure(checksum="0" * 64)

    @pytest.mark.parametrize(
        ("script", "why"),
        [
            ("echo 'no such module' >&2; exit 1", "it ended with status 1 (no such module)"),
            ("exit 0", "it left no program"),
            ("printf x > $GOBIN/opa", "is not an OPA that runs"),
        ],
    )
    def test_that_fails_is_said(self, places: Places, script: str, why: str) -> None:
        places.go(script)
        assert why in places.failure()
        assert places.left() == ["1.22.2/.lock"]


def test_nothing_at_all_is_one_sentence_that_names_all_three(places: Places) -> None:
    assert places.failure() == (
        "No usable OPA: on PATH, there is none; the release 1.22.2 was not got, because "
        f"http://127.0.0.1:1/none/v1.22.2/{ASSET} failed (ConnectError: [Errno 111] Connection refused); "
        "and `go install` did not build it, because there is no Go on PATH; "
        f"put one of at least version {FLOOR} on PATH, or name it by OSTIARY_OPA."
    )


def test_what_others_could_have_put_into_the_cache_is_not_used(places: Places) -> None:
    cached = place(places.cache / "1.22.2", program())
    cached.chmod(0o777)
    assert "No usable OPA" in places.failure()
    cached.chmod(0o755)
    assert places.ensure() == cached


def test_the_cache_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, places: Places) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    cached = place(tmp_path / "xdg" / "ostiary" / "opa" / "1.22.2", program())
    assert ensure_opa(sources=Sources(search=str(places.path), release=places.release), override="") == cached


def test_two_at_a_time_get_one_program(places: Places, tmp_path: Path) -> None:
    source = place(tmp_path / "source", program())
    counter = tmp_path / "count"
    places.go(f'echo x >> {counter}\nsleep 0.3\ncp "{source}" "$GOBIN/opa"')
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(places.ensure())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [places.cache / "1.22.2" / "opa"] * 3
    assert counter.read_text() == "x\n"
    assert "Another process is getting OPA: waiting for it." in places.said


def test_one_that_is_killed_leaves_no_lock(places: Places, tmp_path: Path) -> None:
    """The kernel lifts the lock, and what was unfinished is not taken for finished."""
    places.go(f'printf x > "$GOBIN/opa"; touch {tmp_path}/started; sleep 1')
    script = (
        "import sys; from pathlib import Path; from ostiary.opa.install import *;"
        "from ostiary.opa.release import Release;"
        "ensure_opa(cache_dir=Path(sys.argv[1]), override='', "
        "sources=Sources(search=sys.argv[2], release=Release(base='http://127.0.0.1:1')))"
    )
    child = subprocess.Popen([sys.executable, "-c", script, str(places.cache), str(places.path)])
    while not (tmp_path / "started").exists():
        assert child.poll() is None
    child.kill()
    child.wait()
    source = place(tmp_path / "source", program())
    places.go(f'cp "{source}" "$GOBIN/opa"')
    assert places.ensure().read_bytes() == program()


def test_the_real_one_is_good(opa_binary: Path, tmp_path: Path) -> None:
    shutil.copy(opa_binary, tmp_path / "opa")
    assert ensure_opa(override=str(tmp_path / "opa")) == tmp_path / "opa"
