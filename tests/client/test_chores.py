"""Chores: done when due, done again when they say so, and a defect in one does not stop the others."""

import threading

from weft.client.chores import Chores


def test_a_chore_is_done_again_until_it_says_that_it_is_done() -> None:
    done = threading.Event()
    counts: list[int] = []

    def chore() -> float | None:
        counts.append(len(counts))
        if len(counts) == 3:
            done.set()
            return None
        return 0.001

    chores = Chores("test", [chore])
    chores.start()
    assert done.wait(5)
    chores.stop()
    assert counts == [0, 1, 2]


def test_a_defect_in_one_chore_leaves_the_others() -> None:
    done = threading.Event()

    def broken() -> float | None:
        raise RuntimeError("a defect")

    def whole() -> float | None:
        done.set()
        return None

    chores = Chores("test", [broken, whole])
    chores.start()
    assert done.wait(5)
    chores.stop()


def test_stopping_does_not_wait_for_what_is_due_later() -> None:
    chores = Chores("test", [lambda: 3600.0])
    chores.start()
    chores.stop()
    chores.stop()
