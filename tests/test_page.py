"""The page that all workers of a machine read: what is announced is there for every one of them at once."""

from __future__ import annotations

import multiprocessing
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from ostiary.page import Page


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    made = Page.create(tmp_path / "page")
    yield made
    made.close()


def test_it_is_empty_at_first_and_for_its_owner_alone(page: Page, tmp_path: Path) -> None:
    assert (page.epoch, page.revision()) == (0, None)
    assert stat.S_IMODE((tmp_path / "page").stat().st_mode) == 0o600


def test_a_reader_sees_the_last_announcement(page: Page, tmp_path: Path) -> None:
    reader = Page.attach(tmp_path / "page")
    for number, revision in enumerate(["7-a", "8-bcd", "9-" + "f" * 128], start=1):
        page.announce(revision)
        assert (reader.epoch, reader.revision()) == (number, revision)
    reader.close()


def test_a_reader_cannot_write(page: Page, tmp_path: Path) -> None:
    reader = Page.attach(tmp_path / "page")
    with pytest.raises(TypeError):
        reader.announce("7-a")
    reader.close()


@pytest.mark.parametrize("text", ["7-a 8-b", "7-a\0", "7-" + "a" * 1000, "7-\u00e9"])
def test_what_is_no_revision_is_not_announced(page: Page, text: str) -> None:
    page.announce("7-a")
    with pytest.raises(ValueError, match=r"revision|ascii"):
        page.announce(text)
    assert (page.epoch, page.revision()) == (1, "7-a")


def test_a_text_that_is_not_there_yet_is_none(page: Page, tmp_path: Path) -> None:
    """As after a writer that was killed between the two, or on a machine that shows the counter first."""
    page.announce("7-a")
    content = bytearray((tmp_path / "page").read_bytes())
    content[0] += 1
    (tmp_path / "torn").write_bytes(content)
    torn = Page.attach(tmp_path / "torn")
    assert (torn.epoch, torn.revision()) == (2, None)
    torn.close()


def test_a_new_page_leaves_the_old_one_to_those_who_have_it(page: Page, tmp_path: Path) -> None:
    reader = Page.attach(tmp_path / "page")
    page.announce("7-a")
    again = Page.create(tmp_path / "page")
    again.announce("1-z")
    assert (reader.revision(), again.revision()) == ("7-a", "1-z")
    reader.close()
    again.close()


def _read(path: Path, rounds: int, answers: multiprocessing.SimpleQueue[str]) -> None:
    reader = Page.attach(path)
    seen = 0
    wrong = ""
    for _ in range(rounds):
        epoch, revision = reader.epoch, reader.revision()
        if revision is None:
            continue
        number = int(revision.partition("-")[0])
        if revision != f"{number}-{'x' * (number % 100)}" or number < max(seen, epoch):
            wrong = f"{revision} after {seen}, at {epoch}"
        seen = number
    answers.put(wrong)


def test_nothing_is_read_half_or_backwards(page: Page, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    reader = context.Process(target=_read, args=(tmp_path / "page", 200_000, answers))
    reader.start()
    number = 0
    while reader.is_alive():
        number += 1
        page.announce(f"{number}-{'x' * (number % 100)}")
    reader.join()
    assert (answers.get(), reader.exitcode) == ("", 0)
