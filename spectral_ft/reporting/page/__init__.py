"""One self-contained HTML page of a run or of a sweep."""

from spectral_ft.reporting.page.writing import write_page

__all__ = ["write_page"]
