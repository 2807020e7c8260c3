"""Folders that tests read from."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]
# Real data and weights, next to the repository; without them, the tests that read them are skipped.
SHARED = ROOT.parent / "shared" / "data"
