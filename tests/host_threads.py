"""Hosts that are threads, and a store that they talk by."""

import concurrent.futures
import threading
from typing import Any

import jax

from hiper_jax.hosts import Hosts


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


def each(work, count=2, wait=5.0) -> tuple[list[Any], Store]:
    """work(hosts) on every host; what it returns or raises, in order."""
    store = Store()

    def one(index):
        try:
            return work(Hosts(wait=wait, among=(count, index, store)))
        except Exception as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(count) as threads:
        return list(threads.map(one, range(count))), store
