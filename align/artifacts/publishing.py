"""The two steps that make a folder a version, whole or not at all.

Nothing here takes a lock. A version number belongs to whoever renames a folder onto it first: a folder that exists and
is not empty cannot be renamed onto, on any file system.
"""

import errno
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from align.artifacts.digests import hash_files, walk_files
from align.artifacts.disk import sync_file, sync_folder, write_durably
from align.artifacts.manifest import MANIFEST_FILE, Manifest
from align.artifacts.safety import check_file
from align.errors import UserError

_SYNCS = 16  # fsyncs under way at once: they wait for the disk, not for a core
_TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)


def seal(folder: Path) -> dict[str, dict]:
    """Check every file, make it read-only and durable, and return the manifest's `files`."""
    # A manifest is left there by an attempt that died between the manifest and the rename.
    files = [(inside, path) for inside, path in walk_files(folder) if inside != MANIFEST_FILE]
    if not files:
        raise ValueError(f"{folder} holds no files to publish")
    for inside, path in files:
        check_file(inside, path)
        path.chmod(stat.S_IMODE(path.stat().st_mode) & 0o444)
    entries = hash_files(files)
    # All modes were set before the first fsync, and all are asked for at once: journals then commit them together.
    with ThreadPoolExecutor(max_workers=_SYNCS) as pool:
        list(pool.map(sync_file, [path for _, path in files]))
    for here, _, _ in os.walk(folder):
        sync_folder(Path(here))
    return entries


def rename_onto(folder: Path, path: Path, manifest: Manifest, number: int) -> Manifest | None:
    """Publish a sealed folder as version `number` at `path`: the manifest as written, or None if that is taken."""
    text = replace(manifest, version=number).to_json()
    write_durably(folder / MANIFEST_FILE, text.encode(), mode=0o444)
    sync_folder(folder)
    try:
        os.rename(folder, path)
    except OSError as error:
        if error.errno in _TAKEN:
            return None
        raise
    sync_folder(path.parent)
    for inside, entry in manifest.files.items():
        # Whatever removed a file while the folder was being published, nothing broken is said to be published.
        if not (path / inside).is_file() or (path / inside).stat().st_size != entry["size"]:
            raise UserError(
                f"{path / inside} was removed or changed by another program while it was being published: "
                f"{manifest.name}:v{number} is damaged, run again"
            )
    return Manifest.from_json(text, str(path / MANIFEST_FILE))
