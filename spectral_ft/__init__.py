"""spectral_ft: which weight matrices to adapt, and with how much capacity, read from their spectra.

The entries are commands (`python -m spectral_ft.run`); importing the package loads nothing heavy.
"""

__version__ = "0.1.0"
