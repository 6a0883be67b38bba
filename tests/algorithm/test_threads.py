"""Pieces side by side."""

import os
import threading
import time

import pytest
import torch

from cql.algorithm.fast import threads


@pytest.fixture(params=[1, 2, 4])
def n_threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_each_piece_is_called_once_on_one_thread_of_as_many_as_there_are(n_threads):
    seen = []

    def piece(number):
        seen.append((number, threading.get_ident(), torch.get_num_threads()))
        time.sleep(0.02)  # so that the others take some
        return 10 * number

    results = threads.each_alone([lambda number=number: piece(number) for number in range(12)])
    assert results == [10 * number for number in range(12)]
    assert sorted(number for number, _, _ in seen) == list(range(12))
    assert len({thread for _, thread, _ in seen}) == n_threads
    assert {own for _, _, own in seen} == {1}
    assert torch.get_num_threads() == n_threads
    # Helpers stay: the next call has the same.
    before, seen = {thread for _, thread, _ in seen}, []
    threads.each_alone([lambda number=number: piece(number) for number in range(12)])
    assert {thread for _, thread, _ in seen} == before


def test_the_products_of_the_caller_have_all_threads_again(n_threads):
    """What a helper sets of the process must not stay when the caller goes on."""
    left = torch.randn(2000, 500)
    threads.each_alone([lambda: left @ left.T] * 3)
    assert torch.get_num_threads() == n_threads
    assert f"mkl_get_max_threads() : {n_threads}" in torch.__config__.parallel_info() or "MKL" not in (
        torch.__config__.show()
    )


@pytest.mark.parametrize("failing", [0, 5])
def test_a_failing_piece_raises_and_leaves_all_as_it_was(n_threads, failing):
    def piece(number):
        time.sleep(0.01)
        if number == failing:
            raise ValueError(f"piece {number}")
        return number

    pieces = [lambda number=number: piece(number) for number in range(6)]
    with pytest.raises(ValueError, match=f"piece {failing}"):
        threads.each_alone(pieces)
    assert torch.get_num_threads() == n_threads
    assert threads.each_alone([lambda: 1, lambda: 2]) == [1, 2]


def test_few_pieces_and_none(n_threads):
    assert threads.each_alone([]) == []
    assert threads.each_alone([lambda: "only"]) == ["only"]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # of Python 3.12: what is tested here
def test_a_forked_process_starts_its_own_threads(n_threads):
    """The pool of the parent has no threads there: a step would wait for ever."""
    threads.each_alone([lambda: 1] * 3)
    child = os.fork()
    if child == 0:
        os._exit(0 if threads.each_alone([lambda: 1, lambda: 2]) == [1, 2] else 1)
    for _ in range(500):
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        time.sleep(0.02)
    else:
        os.kill(child, 9)
        os.waitpid(child, 0)
        pytest.fail("the forked process hangs")
    assert status == 0
