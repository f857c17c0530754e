"""What all tests share: how many examples hypothesis draws, the pool's head start, and what was proved."""

import os
import sys

import hypothesis

os.environ.setdefault("OMP_NUM_THREADS", "1")

SETTINGS = {"deadline": None, "print_blob": True, "suppress_health_check": list(hypothesis.HealthCheck)}
hypothesis.settings.register_profile("default", max_examples=5, derandomize=True, **SETTINGS)
hypothesis.settings.register_profile("proofs", max_examples=100, derandomize=False, **SETTINGS)
"""What starts workers takes fewer: drawn.ON_WORKERS, Conformance and tests/test_every_layout.py say how many."""
hypothesis.settings.load_profile(os.environ.get("EYAS_PROFILE", "default"))


def pytest_sessionstart(session):
    """Starts the server that test workers are forked from; it loads torch and Megatron while tests are collected."""
    if not session.config.option.collectonly:
        from eyas.parallel.pool import preload

        preload()


def pytest_terminal_summary(terminalreporter):
    """Prints which kinds of parallelism were proved together, where the session did that."""
    reached = sys.modules.get("reached")
    if reached is not None and reached.proved:
        terminalreporter.section(f"{len(reached.proved)} layouts computed what one process computes; of them with")
        terminalreporter.write_line("\n".join(reached.table()))
