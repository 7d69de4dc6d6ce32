"""The results as people and programs get them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.contestants import DIRECT, ENVOY, Contestant
from benchmarks.plot import LADDER, draw, picture
from benchmarks.processes import Usage
from benchmarks.report import rows, show
from benchmarks.rounds import Contest, Entry, Outcome, Sample
from benchmarks.traffic import Run

PROXY = "proxy <1>"


@pytest.fixture
def outcome() -> Outcome:
    """Of one round with nothing in between, Envoy, and a proxy half as quick."""
    with subprocess.Popen([sys.executable, "-c", ""], text=True) as process:
        process.wait()
    counts = {DIRECT: 4000, ENVOY: 1000, PROXY: 500}
    entries = [
        Entry(contestant=Contestant(name=name, port=1, process=None if name == DIRECT else process), requests=Path())
        for name in counts
    ]
    samples = {
        name: [
            Sample(
                run=Run(requests=count, seconds=1.0, sent=count, latencies={10**9 // count: count}, load_cpu=0.1),
                before=Usage(),
                after=Usage(cpu=0.5, opa_cpu=0.25, resident=100_000_000, opa_resident=50_000_000),
                until=0.0,
            )
        ]
        for name, count in counts.items()
    }
    return Outcome(Contest(title=LADDER, connections=32, entries=entries, seconds=1), samples)


def test_a_row_holds_what_was_measured_and_what_it_is_of_the_baseline(outcome: Outcome) -> None:
    def same(value: float) -> dict[str, float]:
        return {"median": value, "least": value, "greatest": value}

    assert rows([outcome])[2] == {
        "contest": LADDER,
        "name": PROXY,
        "connections": 32,
        "rounds": 1,
        "per_second": same(500.0),
        "p50_us": same(2000.0),
        "p99_us": same(2000.0),
        "p999_us": 2000.0,
        "cpu_us": same(1000.0),
        "opa_cpu_us": same(500.0),
        "load_cpu_us": same(200.0),
        "others": same(0.0),
        "resident_bytes": 100_000_000,
        "opa_resident_bytes": 50_000_000,
        "of_baseline": {
            "name": ENVOY,
            "throughput": same(0.5),
            "p50": same(2.0),
            "p99": same(2.0),
            "cpu": same(2.0),
        },
    }


def test_where_nothing_is_in_between_nothing_uses_any_time(outcome: Outcome) -> None:
    direct = rows([outcome])[0]
    assert (direct["cpu_us"], direct["opa_cpu_us"], direct["of_baseline"]["cpu"]) == (None, None, None)


def test_the_table_has_a_line_for_each_entry(outcome: Outcome, capsys: pytest.CaptureFixture[str]) -> None:
    show([outcome])
    title, _, *lines = capsys.readouterr().out.strip().splitlines()
    assert title == LADDER
    assert [line.split("  ")[1] for line in lines] == [DIRECT, ENVOY, PROXY]
    assert "0.50 (0.50 – 0.50)" in lines[2]


def test_a_table_says_if_others_had_much_of_the_cores(outcome: Outcome, capsys: pytest.CaptureFixture[str]) -> None:
    disturbed = {name: [replace(one, others=0.25) for one in samples] for name, samples in outcome.samples.items()}
    show([Outcome(outcome.contest, disturbed)])
    *_, last = capsys.readouterr().out.strip().splitlines()
    assert last == "  Others used 0.25 (0.25 – 0.25) of the cores meanwhile: these numbers are not to be believed."


def test_the_picture_is_a_document_that_names_every_row(outcome: Outcome) -> None:
    root = ElementTree.fromstring(picture(rows([outcome]), processor="<a processor>"))
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {DIRECT, ENVOY, PROXY} <= set(texts)
    assert "0.50  ·  500/s" in texts


def test_without_a_ladder_there_is_no_picture() -> None:
    assert draw({"bodies": []}) is None
