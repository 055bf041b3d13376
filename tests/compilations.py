"""Counts what XLA compiles: also what jax compiles again without tracing."""

import contextlib

import jax


@contextlib.contextmanager
def compilations():
    """Yields a list that grows by a name with each program compiled meanwhile."""
    found: list[str] = []

    def heard(event: str, seconds: float, **said):
        if event == "/jax/core/compile/backend_compile_duration":
            found.append(said.get("fun_name", ""))

    jax.monitoring.register_event_duration_secs_listener(heard)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(heard)
