"""Where things are that tests read."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # of the repository
SHARED = ROOT.parent / "shared"  # real data beside the repository; tests that read it are skipped where there is none
