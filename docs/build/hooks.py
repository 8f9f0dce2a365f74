"""MkDocs hooks: pictures and files that lie outside docs/ are made part of the site, or named by their path."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

PROJECT = Path(__file__).resolve().parents[2]
PICTURE = re.compile(r"\]\((?:\.\./)+(benchmarks/[\w/.]+\.png)\)")
FILE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+((?:data|examples|align|conf|launch|tests|benchmarks)/[^)]*|[A-Z]+\.md)\)")


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point pictures at the site's copy, and show links to files of the project as their path."""
    up = "../" * page.file.src_uri.count("/")
    return FILE.sub(r"\1 (`\2`)", PICTURE.sub(rf"]({up}pictures/\1)", markdown))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pictures of benchmarks/ to the site."""
    for picture in sorted((PROJECT / "benchmarks").rglob("*.png")):
        place = f"pictures/{picture.relative_to(PROJECT).as_posix()}"
        files.append(File.generated(config, place, abs_src_path=str(picture)))
    return files
