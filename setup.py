"""Everything is declared in pyproject.toml but the text of the package's page: the README, whose links lead
to files of the repository, so that they must be whole addresses there."""

import re
from pathlib import Path

from setuptools import setup

REPOSITORY = "https://github.com/allometry-lab/allometry"
RAW = "https://raw.githubusercontent.com/allometry-lab/allometry/main"


def whole_addresses(text: str) -> str:
    """Return Markdown whose links and pictures within the repository are whole addresses."""

    def address(match: re.Match[str]) -> str:
        before, path = match.groups()
        root = RAW if before.startswith("src") else f"{REPOSITORY}/blob/main"
        return f"{before}{root}/{path}"

    return re.sub(r'(\]\(|href="|src=")(?!https?:|mailto:|#)([^)"\s]+)', address, text)


setup(
    long_description=whole_addresses(Path("README.md").read_text(encoding="utf-8")),
    long_description_content_type="text/markdown",
)
