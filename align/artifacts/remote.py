"""A remote store: versions and aliases under one URL of any file system that fsspec knows (s3://, gs://, file://).

    <url>/.blobs/<algorithm>/<first two digits>/<hash>    the files, each once, named by content
    <url>/<name>/v0003/manifest.json                      written last: without it there is no version
    <url>/<name>/aliases/latest/000017                    the alias's log, as in a store

A file is named by its content, so that two who push at once cannot mix, a transfer goes on where it stopped, and what
two versions share is sent once. A manifest is created only where there is none.
"""

import contextlib
import errno
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from align.artifacts.digests import algorithm_of, new_hash
from align.artifacts.disk import create_exclusively, make_folder, sync_file, sync_folder, unique_name
from align.artifacts.manifest import LARGEST, MANIFEST_FILE, Manifest
from align.artifacts.refs import LATEST, Ref, check_alias
from align.errors import UserError

_PIECE = 1 << 24  # bytes a request
_LARGEST_ENTRY = 10_000  # bytes of a move of an alias
_VERSION = re.compile(r"v([0-9]{4,18})", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)
_CLIENTS = ("botocore.", "aiobotocore.", "aiohttp.", "gcsfs.", "fsspec.")  # whose errors are no OSError
_EXTRAS = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}


@contextlib.contextmanager
def explain_remote_errors(doing: str, url: str) -> Iterator[None]:
    """Turn what a network or a remote store answers into a UserError; `doing` completes "cannot ..."."""
    try:
        yield
    except Exception as error:
        local = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO)
        if isinstance(error, OSError) and not local or type(error).__module__.startswith(_CLIENTS):
            why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            remedy = "correct that, and run the same command again"
            raise UserError(f"cannot {doing}: {url} answers {why!r}; {remedy}") from error
        raise


class Remote:
    """The remote store at one URL."""

    def __init__(self, url: str):
        from fsspec.core import url_to_fs

        protocol = url.partition("://")[0]
        if "://" not in url:
            raise UserError(f"{url!r} is no URL: write s3://bucket/folder, or file:///folder for one on this machine")
        try:
            self.fs, path = url_to_fs(url, use_listings_cache=False)
        except ImportError:
            raise UserError(
                f"{url} needs the package {_EXTRAS.get(protocol, 'for ' + protocol)}: pip install "
                f"{'align[s3]' if protocol.startswith('s3') else _EXTRAS.get(protocol, protocol)}"
            ) from None
        except ValueError:
            raise UserError(f"{url} has a protocol nobody here knows: write s3://... or file://...") from None
        self.url = url.rstrip("/")
        self._top = path.rstrip("/")
        self._local = protocol in ("file", "local")

    # -- files -------------------------------------------------------------------------------------------------------

    def blob_size(self, entry: dict[str, Any]) -> int | None:
        """Bytes of the file of this manifest entry; None where it is not there."""
        try:
            return self.fs.info(self._blob(entry))["size"]
        except FileNotFoundError:
            return None

    def has_blob(self, entry: dict[str, Any]) -> bool:
        """Whether the file of this manifest entry is there, whole by its hash."""
        if self.blob_size(entry) != entry["size"]:
            return False
        return self._hash(self._blob(entry), entry) == entry[algorithm_of(entry)]

    def put_blob(self, source: Path, entry: dict[str, Any]) -> None:
        """Send a file and read it back; UserError if it did not arrive as it is."""
        path = self._blob(entry)
        if self._local:
            self._put_local(path, lambda temporary: self.fs.put_file(str(source), temporary))
        else:
            self.fs.put_file(str(source), path)
        if not self.has_blob(entry):
            raise UserError(f"{path} did not arrive as it was sent to {self.url}: push again; if it stays, look there")

    def get_blob(self, entry: dict[str, Any], target: Path) -> None:
        """Fetch a file, going on behind what `target` holds already; UserError if the result has another hash."""
        path = self._blob(entry)
        hasher = new_hash(algorithm_of(entry))
        have = 0
        if target.exists():
            have = target.stat().st_size
            if have > entry["size"]:
                target.unlink()
                have = 0
            else:
                with open(target, "rb") as file:
                    while piece := file.read(_PIECE):
                        hasher.update(piece)
        try:
            with open(target, "ab") as file:
                if have < entry["size"]:
                    for piece in self._read(path, have, entry["size"]):
                        file.write(piece)
                        hasher.update(piece)
                file.flush()
                os.fsync(file.fileno())
        except FileNotFoundError:
            raise UserError(f"{self.url} has lost {path}, which a manifest names: push that version again") from None
        if hasher.hexdigest() != entry[algorithm_of(entry)] or target.stat().st_size != entry["size"]:
            target.unlink()
            raise UserError(
                f"{path} of {self.url} arrived with another hash or size than its manifest has, and was dropped: pull "
                "again; if it stays, push that version again from a store that has it"
            )

    # -- versions ----------------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """The names that have a version."""
        return sorted(name for name in self._list("") if name[0] != "." and self.numbers(name))

    def numbers(self, name: str) -> list[int]:
        """The versions whose manifest is there."""
        numbers = [int(match[1]) for folder in self._list(name) if (match := _VERSION.fullmatch(folder))]
        return sorted(number for number in numbers if self.fs.exists(self._manifest(name, number)))

    def manifest(self, name: str, number: int) -> tuple[bytes, Manifest] | None:
        """The manifest of a version, as text and read; None where there is none; UserError if it is damaged."""
        path = self._manifest(name, number)
        try:
            if (size := self.fs.info(path)["size"]) > LARGEST:
                raise UserError(f"{path} has {size} bytes, which no manifest has: push that version again")
            text = self.fs.cat_file(path, start=0, end=LARGEST)
        except FileNotFoundError:
            return None
        manifest = Manifest.from_json(text, f"{self.url}/{name}/v{number:04d}/{MANIFEST_FILE}")
        if manifest.ref != f"{name}:v{number}":
            raise UserError(f"{path} belongs to {manifest.ref}: somebody has moved it")
        return text, manifest

    def put_manifest(self, name: str, number: int, text: bytes) -> bool:
        """Make a version, unless there is one; False if there is."""
        return self._create(self._manifest(name, number), text)

    def resolve(self, text: str) -> Ref:
        """The exact ref that `text` names there now."""
        ref = Ref.parse(text)
        numbers = self.numbers(ref.name)
        if not numbers:
            has = ", ".join(self.names()) or "nothing"
            raise UserError(f"{self.url} has no {ref.name}; it has {has}")
        number = ref.version or self.aliases(ref.name).get(ref.alias or "")
        if number is None and ref.alias == LATEST:
            number = numbers[-1]
        if number not in numbers:
            known = [f"{alias} (v{at})" for alias, at in self.aliases(ref.name).items()]
            have = ", ".join([*(f"v{one}" for one in numbers), *known])
            raise UserError(f"{self.url} has no {text}; of {ref.name} it has {have}")
        return Ref(ref.name, number, None)

    # -- aliases -----------------------------------------------------------------------------------------------------

    def aliases(self, name: str) -> dict[str, int]:
        """alias -> version number."""
        found = {}
        for alias in self._list(f"{name}/aliases"):
            for number in sorted(map(int, self._entries(name, alias)), reverse=True):
                with contextlib.suppress(ValueError, TypeError, LookupError, RecursionError, FileNotFoundError):
                    text = self.fs.cat_file(self._entry(name, alias, number), start=0, end=_LARGEST_ENTRY)
                    found[alias] = int(json.loads(text)["version"])
                    break
        return found

    def point(self, name: str, alias: str, version: int, when: str, who: str) -> None:
        """Move an alias there; `latest` moves forward only."""
        check_alias(alias)
        while True:
            taken = max(map(int, self._entries(name, alias)), default=0)
            at = self.aliases(name).get(alias)
            if at == version or (alias == LATEST and at is not None and at > version):
                return
            line = json.dumps({"version": version, "when": when, "who": who}, ensure_ascii=False) + "\n"
            if self._create(self._entry(name, alias, taken + 1), line.encode()):
                return

    # -- paths and pieces --------------------------------------------------------------------------------------------

    def _blob(self, entry: dict[str, Any]) -> str:
        name = algorithm_of(entry)
        return f"{self._top}/.blobs/{name}/{entry[name][:2]}/{entry[name]}"

    def _manifest(self, name: str, number: int) -> str:
        return f"{self._top}/{name}/v{number:04d}/{MANIFEST_FILE}"

    def _entry(self, name: str, alias: str, number: int) -> str:
        return f"{self._top}/{name}/aliases/{alias}/{number:06d}"

    def _entries(self, name: str, alias: str) -> list[str]:
        return [entry for entry in self._list(f"{name}/aliases/{alias}") if _NUMBER.fullmatch(entry)]

    def _list(self, inside: str) -> list[str]:
        try:
            found = self.fs.ls(f"{self._top}/{inside}".rstrip("/"), detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted({one.rstrip("/").rpartition("/")[2] for one in found})

    def _read(self, path: str, start: int, size: int) -> Iterator[bytes]:
        # By ranges and not through one open file: fsspec's memory files share their place between readers.
        while start < size:
            piece = self.fs.cat_file(path, start=start, end=min(size, start + _PIECE))
            if not piece:
                return
            yield piece
            start += len(piece)

    def _hash(self, path: str, entry: dict[str, Any]) -> str:
        hasher = new_hash(algorithm_of(entry))
        for piece in self._read(path, 0, entry["size"]):
            hasher.update(piece)
        return hasher.hexdigest()

    def _create(self, path: str, content: bytes) -> bool:
        """Create a small file whole, and only if there is none; False if there is one."""
        if self.fs.exists(path):
            return False
        if self._local:
            make_folder(Path(path).parent)
            return create_exclusively(Path(path), content)
        try:
            # Object stores that can create exclusively (S3: If-None-Match) do; for others the look above must do.
            self.fs.pipe_file(path, content, mode="create")
        except FileExistsError:
            return False
        except (TypeError, NotImplementedError):
            self.fs.pipe_file(path, content)
        return True

    def _put_local(self, path: str, write: Any) -> None:
        """A file on a mounted disk: under another name first, durable, then renamed."""
        folder = Path(path).parent
        make_folder(folder)
        temporary = folder / unique_name(".writing-")
        try:
            write(str(temporary))
            sync_file(temporary)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(folder)
