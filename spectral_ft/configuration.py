"""Where the files that come with the package lie."""

from pathlib import Path

PACKAGE = Path(__file__).parent
CONF = next(folder for folder in (PACKAGE / "conf", PACKAGE.parent / "conf") if folder.is_dir())
"""In a wheel it lies in the package, in a checkout at the top."""

PUBLISHED = CONF.parent / "experiments"
"""Holds FOLDER/published.csv, the published numbers; in a wheel nothing else."""

EMBEDDED_MODEL = PACKAGE / "models" / "tiny"
"""Made by `experiments/tiny_model`."""
