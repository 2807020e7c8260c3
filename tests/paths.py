"""Folders that tests read from."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]
# Real data and weights, beside the checkout; absent elsewhere.
SHARED = ROOT.parent / "shared" / "data"
