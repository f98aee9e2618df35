"""These tests run in the environment that `install.py` builds, and start engines of vLLM."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
