"""Many reads at a time, answers in order, and a bound on what is held."""

import threading
from collections.abc import Iterator
from itertools import count, islice

import pytest

from heatmill.storage.read_ahead import READERS, WAITING, read_ahead


def test_answers_come_in_the_order_of_the_names() -> None:
    turns = [threading.Event() for _ in range(4)]

    def read(number: int) -> int:
        # Each waits for the one behind it.
        if number < 3:
            assert turns[number + 1].wait(10)
        turns[number].set()
        return number

    assert list(read_ahead(read, range(4))) == [0, 1, 2, 3]


def test_no_more_is_begun_than_may_be_held() -> None:
    begun = 0

    def names() -> Iterator[int]:
        nonlocal begun
        for number in count():
            begun += 1
            yield number

    answers = read_ahead(lambda number: number, names())
    for taken, answer in enumerate(islice(answers, 100)):
        assert answer == taken
        assert begun - taken <= READERS + WAITING


def test_an_error_comes_where_its_answer_would() -> None:
    def read(number: int) -> int:
        if number == 2:
            raise LookupError(number)
        return number

    answers = read_ahead(read, range(5))
    assert [next(answers), next(answers)] == [0, 1]
    with pytest.raises(LookupError):
        next(answers)
