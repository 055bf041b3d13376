"""Hosts that differ, fail or do not come are named; hosts that agree go on.

The store is made up here, and the hosts are threads; tests/test_pods.py has real ones.
"""

import concurrent.futures
import threading
import time

import jax
import pytest

from hiper_jax.hosts import HostError, Hosts


class Store:
    """JAX's key-value store, of one process."""

    def __init__(self):
        self.values, self.changed = {}, threading.Condition()

    def key_value_set(self, key, value, allow_overwrite=False):
        with self.changed:
            if key in self.values and not allow_overwrite:
                raise jax.errors.JaxRuntimeError("ALREADY_EXISTS")
            self.values[key] = value
            self.changed.notify_all()

    def key_value_delete(self, key):
        del self.values[key]

    def key_value_try_get(self, key):
        if key not in self.values:
            raise jax.errors.JaxRuntimeError("NOT_FOUND")
        return self.values[key]

    def key_value_dir_get(self, room):
        return [(k, v) for k, v in self.values.items() if k.startswith(room)]

    def blocking_key_value_get(self, key, milliseconds):
        with self.changed:
            if not self.changed.wait_for(lambda: key in self.values, 0.02):
                raise jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED")
            return self.values[key]


def each(work, count=2, wait=5.0):
    """work(hosts) on every host; what it returns or raises, in order."""
    store = Store()

    def one(index):
        try:
            return work(Hosts(wait=wait, among=(count, index, store)))
        except Exception as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(count) as threads:
        return list(threads.map(one, range(count))), store


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
