"""MkDocs hooks: pictures and files that lie outside docs/ are linked as on a code host, and copied into the site."""

import re
import shutil
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
PICTURE = re.compile(r"\]\((?:\.\./)+(benchmarks/[\w/.]+\.png)\)")
FILE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+((?:data|examples|align|conf|launch|tests|benchmarks)/[^)]*|[A-Z]+\.md)\)")


def on_page_markdown(markdown: str, page, config, files) -> str:
    """Point pictures at the site's copy, and show links to files of the project as their path."""
    up = "../" * page.file.src_uri.count("/")
    return FILE.sub(r"\1 (`\2`)", PICTURE.sub(rf"]({up}pictures/\1)", markdown))


def on_post_build(config) -> None:
    """Copy the pictures."""
    for picture in (PROJECT / "benchmarks").rglob("*.png"):
        target = Path(config.site_dir, "pictures", picture.relative_to(PROJECT))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, target)
