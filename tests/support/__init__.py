"""Servers, clients and fixtures that several test modules use.

pytest explains a plain `assert` only in the modules that it rewrites: test modules, and those named here.
"""

from pathlib import Path

import pytest

pytest.register_assert_rewrite(
    *(f"support.{path.stem}" for path in Path(__file__).parent.glob("[!_]*.py")),
)
