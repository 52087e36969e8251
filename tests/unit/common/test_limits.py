"""What a client may do at most, by a clock of the test's."""

from __future__ import annotations

from contextlib import ExitStack, suppress

import pytest
from minicommon.clock import SECOND
from minicommon.rpc import limits as module
from minicommon.rpc.limits import CallLimits, Limiter, TooManyCallsError


class Bench:
    def __init__(self, limits: CallLimits) -> None:
        self.now_ns = 0
        self.limiter = Limiter(limits, lambda: self.now_ns)

    def calls(self, name: str, count: int) -> int:
        """How many of so many calls, one after the other, are answered."""
        answered = 0
        for _ in range(count):
            with suppress(TooManyCallsError), self.limiter.admitted(name):
                answered += 1
        return answered


def test_a_client_has_its_burst_and_then_its_rate_and_takes_nothing_from_another() -> None:
    bench = Bench(CallLimits(per_second=10, burst=25))
    assert bench.calls("a", 100) == 25
    bench.now_ns += SECOND
    assert bench.calls("a", 100) == 10
    assert bench.calls("b", 100) == 25
    bench.now_ns += 3600 * SECOND
    assert bench.calls("a", 100) == 25


def test_the_refusal_says_what_is_allowed_and_what_to_do() -> None:
    bench = Bench(CallLimits(per_second=10, burst=1))
    bench.calls("client ci", 1)
    bench.now_ns += SECOND // 20
    with pytest.raises(TooManyCallsError) as refused, bench.limiter.admitted("client ci"):
        pass
    assert refused.value.message == (
        "client ci calls too often: at most 10 calls a second are answered, 1 after a pause; "
        "try again in 0.050 s, and watch instead of asking again and again"
    )


def test_open_calls_are_counted_until_they_end() -> None:
    bench = Bench(CallLimits(open=2))
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(bench.limiter.admitted("a"))
        with pytest.raises(TooManyCallsError, match="a has 2 calls open, and at most 2 are allowed"):
            stack.enter_context(bench.limiter.admitted("a"))
        assert bench.calls("b", 1) == 1
    assert bench.calls("a", 1) == 1


def test_a_flood_is_told_of_once_in_ten_seconds(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(CallLimits(per_second=1, burst=1))
    for _ in range(3):
        bench.calls("a", 1000)
        bench.now_ns += 5 * SECOND
    assert [record.getMessage() for record in caplog.records] == [
        "A client calls too often and is refused."
    ] * 2


def test_clients_that_called_long_ago_are_forgotten() -> None:
    bench = Bench(CallLimits())
    with bench.limiter.admitted("open"):
        for number in range(module.MOST_CLIENTS - 1):
            bench.calls(str(number), 1)
        bench.now_ns += 3600 * SECOND
        bench.calls("new", 1)
        assert set(bench.limiter._clients) == {"open", "new"}
