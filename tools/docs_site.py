"""Build the pages of the documentation site that have no file: start page, gallery, API reference.

A hook of MkDocs (`mkdocs build --strict`). Links from a page to files outside of `docs/` are sent to the
repository, so that the same Markdown reads well there and on the site.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
_LINK = re.compile(r"(\]\(|href=\")(?!https?:|mailto:|#)([^)\"#\s]+)")


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages to the files of the site."""
    from mkdocs.structure.files import File

    for name, text in {"index.md": start_page(), "gallery.md": gallery(), "api.md": api()}.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Send links that lead out of `docs/` to the repository."""
    here = (ROOT / "docs" / page.file.src_uri).parent

    def target(match: re.Match[str]) -> str:
        path = (here / match[2]).resolve()
        if path.is_relative_to(ROOT / "docs") or not path.exists():
            return match[0]
        kind = "tree" if path.is_dir() else "blob"
        return f"{match[1]}{config.repo_url}/{kind}/main/{path.relative_to(ROOT).as_posix()}"

    return _LINK.sub(target, markdown)


def start_page() -> str:
    """Return the README as the start page: its links are relative to the repository's root."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")

    def target(match: re.Match[str]) -> str:
        name = match[2]
        return f"{match[1]}{name.removeprefix('docs/') if name.startswith('docs/') else '../' + name}"

    text = re.sub(r'(\]\(|href="|src=")(?!https?:|mailto:|#)([^)"#\s]+)', target, text)
    return text


def gallery() -> str:
    """Return a page with every example script and every published figure."""
    parts = ["# Gallery\n\nScripts of `examples/`, each run by the tests, and figures from runs of ours.\n"]
    for path in sorted((ROOT / "examples").glob("*.py")):
        code = path.read_text(encoding="utf-8")
        summary = (ast.get_docstring(ast.parse(code)) or path.stem).splitlines()[0]
        parts.append(f"## {path.stem.replace('_', ' ').capitalize()}\n\n{summary}\n\n```python\n{code}```\n")
    parts.append("## Figures\n")
    for path in sorted((ROOT / "docs" / "figures").glob("*.svg")):
        title = path.stem.replace("-", " ").capitalize()
        parts.append(f"### {title}\n\n![{title}](figures/{path.name})\n")
    return "\n".join(parts)


def api() -> str:
    """Return the reference of the public names, rendered from their docstrings."""
    sys.path.insert(0, str(ROOT))
    import allometry

    parts = [
        "# Python API\n",
        f"The public names of Allometry {allometry.__version__}: `import allometry`, then `allometry.NAME`. "
        "Names that are not on this page may change in any release.\n",
    ]
    parts += [f"::: {module}.{name}\n" for name, module in sorted(allometry._PUBLIC.items())]
    parts.append("::: allometry.core.errors.AllometryError\n")
    return "\n".join(parts)
