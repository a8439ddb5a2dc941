"""The demo model shipped with Quire: a tiny Llama for Python text, made by tools/train_demo_model.py.

This package only names the folder. A start-up path can resolve the demo model before it loads any heavy dependency.
"""

from pathlib import Path
from typing import Final

DEMO_MODEL: Final[Path] = Path(__file__).resolve().parent
