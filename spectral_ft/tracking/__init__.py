"""Where a run's rows go: local JSON lines always, Weights & Biases beside them.

Local files are the source of truth; W&B mirrors them and nothing reads its files back.
"""

from spectral_ft.tracking.settings import Tracking

__all__ = ["Tracking"]
