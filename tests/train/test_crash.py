"""The script that kills trainings, in small; `python scripts/crash_test.py` makes twenty trials."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "crash_test.py"


@pytest.mark.distributed
def test_trainings_killed_at_random_moments_end_like_undisturbed_ones():
    command = [sys.executable, str(SCRIPT), "--trials", "2", "--kills", "2", "--seed", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 of 2 trials ended bit for bit" in done.stdout
