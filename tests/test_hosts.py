"""Hosts that differ, fail or do not come are named; hosts that agree go on.

The store is made up here, and the hosts are threads; tests/test_pods.py has real ones.
"""

import time
import types
from typing import Any

import pytest
from host_threads import each

from hiper_jax.experiments import meeting
from hiper_jax.hosts import HostError, Hosts


def test_every_host_hears_every_host():
    def talk(hosts):
        return [hosts.exchange("turn", [hosts.index, i]) for i in range(5)]

    said, store = each(talk, count=3)
    assert said == [[[[h, i] for h in range(3)] for i in range(5)]] * 3
    assert len(store.values) <= 2 * 3  # what all have read is gone


def test_shares_are_whole_and_in_order():
    shares, _ = each(lambda hosts: hosts.share(10), count=4)
    assert shares == [(0, 2), (2, 5), (5, 7), (7, 10)]


def test_a_host_that_differs_is_named_with_what_differs():
    def compare(hosts):
        hosts.agree("iteration 1", {"key": [0], "step": hosts.index // 2})

    said, _ = each(compare, count=3)
    for error in said:
        assert isinstance(error, HostError)
        assert str(error).startswith("process 2 on ")
        assert "has another step than process 0" in str(error)


def test_a_host_at_another_place_is_named():
    said, _ = each(lambda hosts: hosts.exchange(f"place {hosts.index}", None))
    assert all("is at 'place 1', process 0" in str(error) for error in said)


def test_a_host_that_does_not_come_is_named():
    def come(hosts):
        if hosts.index == 0:
            hosts.exchange("iteration 7", None)

    said, _ = each(come, wait=0.1)
    assert isinstance(said[0], HostError)
    assert "process 1 on " in str(said[0])
    assert "did not come to 'iteration 7' within" in str(said[0])


def test_a_host_that_fails_ends_the_others_at_once():
    def work(hosts):
        if hosts.index == 1:
            hosts.fail("the disk is full")
            return None
        return hosts.exchange("a checkpoint", None)

    began = time.monotonic()
    said, _ = each(work, wait=60.0)
    assert time.monotonic() - began < 5
    assert isinstance(said[0], HostError)
    assert str(said[0]).startswith("process 1 on ")
    assert str(said[0]).endswith("ended: the disk is full")


def test_what_the_first_host_does_is_done_once_and_told():
    done = []

    def work(hosts):
        return hosts.first("games", lambda: done.append(hosts.index) or len(done))

    said, _ = each(work, count=3)
    assert said == [1, 1, 1] and done == [0]

    def fails(hosts):
        hosts.first("games", lambda: {}["gone"])

    said, _ = each(fails)
    assert isinstance(said[0], KeyError) and isinstance(said[1], HostError)
    assert "gone" in str(said[1])


def test_one_host_asks_nobody():
    hosts = Hosts()
    assert (hosts.count, hosts.index, hosts.writes) == (1, 0, True)
    assert hosts.exchange("anything", object) == [object]
    assert hosts.first("anything", lambda: object) is object
    with pytest.raises(ZeroDivisionError):
        hosts.first("anything", lambda: 1 / 0)
    assert hosts.gather("anything", b"rows") == [b"rows"]
    assert hosts.share(7) == (0, 7)


def test_no_host_begins_the_update_before_all_have_compiled_it():
    events = []

    class Update:
        """Takes its host long to compile, where that is the second."""

        def __init__(self, hosts):
            self.hosts, self.made = hosts, 0

        def programs(self):
            return self.made

        def lower(self, state, batch):
            return self

        def compile(self):
            time.sleep(0.3 * self.hosts.index)
            self.made = 1
            events.append(f"compiled {self.hosts.index}")

    def work(hosts):
        functions = types.SimpleNamespace(update=Update(hosts))
        run: Any = types.SimpleNamespace(hosts=hosts, functions=functions)
        batch: Any = None
        for _ in range(2):
            meeting.compiled(run, None, batch)
            events.append("update")

    each(work)
    assert events == ["compiled 0", "compiled 1", *["update"] * 4]
