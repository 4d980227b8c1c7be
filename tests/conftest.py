"""One thread (the tests run beside each other), and hypothesis without chance: 50 examples, the same each time."""

import sys
from pathlib import Path

import torch
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))  # `from strategies import ...`, wherever pytest was started

settings.register_profile("rheos", derandomize=True, max_examples=50, deadline=None)
settings.load_profile("rheos")
torch.set_num_threads(1)
