"""Time, as policy sees it, is never set back."""

from __future__ import annotations

from ostiary.clock import SystemClock, written_instant


class Machine:
    """The two clocks of a machine."""

    def __init__(self) -> None:
        self.wall = 1_790_000_000.0
        self.monotonic = 5.0

    def passes(self, seconds: float, *, step: float = 0.0) -> None:
        self.monotonic += seconds
        self.wall += seconds + step


def test_a_clock_that_is_set_back_lets_nothing_live_on() -> None:
    """Time goes on from where it was: it neither goes back nor stands still until the clock has caught up."""
    machine = Machine()
    clock = SystemClock(wall=lambda: machine.wall, monotonic=lambda: machine.monotonic)
    assert clock.now() == 1_790_000_000.0
    machine.passes(10, step=-3600)
    assert clock.now() == 1_790_000_010.0
    machine.passes(3000)
    assert clock.now() == 1_790_003_010.0


def test_a_step_forward_is_followed() -> None:
    machine = Machine()
    clock = SystemClock(wall=lambda: machine.wall, monotonic=lambda: machine.monotonic)
    clock.now()
    machine.passes(1, step=3600)
    assert clock.now() == 1_790_003_601.0


def test_it_is_this_machines() -> None:
    clock = SystemClock()
    first = clock.now()
    assert 1_700_000_000 < first <= clock.now()
    assert clock.monotonic() <= clock.monotonic()


def test_an_instant_is_written_as_people_write_it() -> None:
    assert written_instant(1_790_000_000) == "2026-09-21T14:13:20Z"
