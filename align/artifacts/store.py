"""The store: `<root>/<name>/v0003/`, published by one rename and never changed afterwards."""

import contextlib
import json
import os
import re
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from align.artifacts import aliases, claims
from align.artifacts.aliases import AliasEntry
from align.artifacts.disk import (
    check_kinds,
    create_exclusively,
    explain_disk_errors,
    make_folder,
    sync_folder,
    unique_name,
    unreadable,
)
from align.artifacts.format import check_format, mark_format
from align.artifacts.index import Index
from align.artifacts.manifest import MANIFEST_FILE, Manifest, json_numbers, read_manifest
from align.artifacts.publishing import rename_onto, seal
from align.artifacts.refs import LATEST, Ref, check_alias, check_name, ranges
from align.artifacts.summary import Summary
from align.artifacts.tombstones import CORRUPT, Removal, read_removal, removed_numbers
from align.artifacts.version import Parent, Version
from align.distributed import processes
from align.errors import UserError

_VERSION_FOLDER = re.compile(r"v(\d{4}|[1-9]\d{4,})", re.ASCII)
_IDENTITY = re.compile(r"[0-9a-f]{8,64}", re.ASCII)
STAGING = ".staging-"
TRASH = ".trash-"
GOING = ".going-"
_DECIDED = 1.0  # seconds that gc takes at most to decide whether a version goes
_ALIASES = "aliases"
_RUN_FOLDERS = ("holders", "checkpoints", "output", "errors", "tokenizer", "wandb")
_RUN_FILES = ("run.json", "config.yaml", "metrics.jsonl", "samples.jsonl", "progress.json")
_PINS = "pins"


class Store:
    """Versions and aliases under one root folder, which need not exist before the first publication."""

    def __init__(self, root: Path | str):
        self.root = Path(root)

    @classmethod
    def open(cls, root: str | None = None) -> "Store":
        """The store at `root`, else at $ALIGN_ARTIFACTS, else at ./artifacts.

        Raises:
            UserError: a later release of align has written it, in a format of its own.
        """
        path = Path(root or os.environ.get("ALIGN_ARTIFACTS") or "artifacts").expanduser()
        check_format(path)
        return cls(path)

    # -- reading -------------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """The names that have a version, sorted."""
        return [name for name, _ in self.contents()]

    def contents(self) -> list[tuple[str, list[int]]]:
        """(name, version numbers ascending) of every name that has a version, sorted; `problems` has the others."""
        contents = []
        for name in (home.name for home in self.homes()):
            with contextlib.suppress(UserError):
                contents.append((name, self.numbers(name)))
        return [(name, numbers) for name, numbers in contents if numbers]

    def problems(self) -> list[str]:
        """A sentence for every name whose folder, or whose aliases or pins, cannot be read."""
        sentences = []
        for name in (home.name for home in self.homes()):
            try:
                self.numbers(name), self.aliases(name), self.pins(name)
            except UserError as error:
                sentences.append(str(error))
        return sentences

    def quarantined(self) -> list[Removal]:
        """The versions that were found corrupt and have not been restored, by name and number."""
        removals = []
        for name in (home.name for home in self.homes()):
            with contextlib.suppress(UserError):
                numbers = self.numbers(name)
                gone = [number for number in removed_numbers(self.home(name)) if number not in numbers]
                removals += [read_removal(self.home(name), number) for number in gone]
        return [removal for removal in removals if removal and removal.why == CORRUPT]

    def homes(self) -> list[Path]:
        """The folders of all names, those without a version among them."""
        return [self.root / name for name in _list(self.root) if name[0] != "." and (self.root / name).is_dir()]

    def home(self, name: str) -> Path:
        """The folder of a name: its versions, aliases, pins and the notes about what was removed."""
        return self.root / name

    def numbers(self, name: str) -> list[int]:
        """The version numbers of `name`, ascending; empty for a name that does not exist."""
        return _numbers(self.root / name)

    def versions(self, name: str) -> list[Version]:
        """Every version of `name`, ascending; UserError if one of their manifests is damaged."""
        return [self.version(name, number) for number in self.numbers(name)]

    def version(self, name: str, number: int) -> Version:
        """A version that exists; UserError if its manifest is missing, damaged or cannot be read."""
        path = self.version_path(name, number)
        try:
            manifest = read_manifest(path / MANIFEST_FILE, f"{name}:v{number}")
        except OSError as error:
            raise unreadable(path / MANIFEST_FILE, error) from None
        return Version(name, number, path, manifest)

    def aliases(self, name: str) -> dict[str, int]:
        """alias -> version number of `name`, sorted by alias."""
        folder = self.root / name / _ALIASES
        found = {alias: aliases.read_current(folder / alias) for alias in _list(folder)}
        return {alias: entry.version for alias, entry in found.items() if entry}

    def alias_log(self, name: str, alias: str) -> list[AliasEntry]:
        """Every move of an alias, oldest first."""
        return aliases.read_log(self.root / name / _ALIASES / check_alias(alias))

    def resolve(self, ref: str | Ref, *, maker: str | None = None) -> Version:
        """The version a ref names now; resolve once, then hand on `Version.ref`.

        UserError says what there is instead and, given `maker` (a command line), how to make what is missing.
        """
        ref = Ref.parse(ref) if isinstance(ref, str) else ref
        remedy = f"; make one: {maker}" if maker else ""
        numbers = self.numbers(ref.name)
        if ref.version and ref.version not in numbers and (gone := read_removal(self.home(ref.name), ref.version)):
            raise UserError(gone.sentence(self.home(ref.name)))
        if not numbers and not removed_numbers(self.home(ref.name)):
            names = ", ".join(self.names())
            has = f"it has {names}" if names else "it is empty"
            raise UserError(f"artifact {str(ref)!r} is not in the store {self.root} ({has}){remedy}")
        number = ref.version
        if number is None:
            entry = aliases.read_current(self.root / ref.name / _ALIASES / ref.alias)
            # A first publication that died just before its alias was written is whole all the same.
            number = entry.version if entry else (numbers[-1] if numbers and ref.alias == LATEST else None)
        if number not in numbers:
            if number and (gone := read_removal(self.home(ref.name), number)):
                others = f", or name {', '.join(ranges(numbers))} of it" if numbers else ""
                otherwise = others if ref.alias == LATEST else ", or move the alias"
                raise UserError(f"{ref} is v{number}, and {gone.sentence(self.home(ref.name))}{otherwise}")
            known = [f"{alias} (v{at})" for alias, at in self.aliases(ref.name).items()]
            has = ", ".join([*ranges(numbers), *known])
            points = "" if ref.version or number is None else f" (it points at v{number}, which is gone)"
            raise UserError(f"artifact {str(ref)!r} does not exist{points}; {ref.name} has {has}{remedy}")
        return self.version(ref.name, number)

    def find(self, identity: str) -> list[Version]:
        """What the run with this identity has published (it may be several), by name and number."""
        _check_identity(identity)
        found = []
        index = Index(self.root)
        for name, numbers in self.contents():
            # A damaged version elsewhere is out of this run's way.
            for summary in index.summaries(name, numbers):
                if isinstance(summary, Summary) and summary.identity == identity:
                    version = self.version(name, summary.number)
                    if version.manifest.identity == identity:  # the index is a cache, the manifest is the truth
                        found.append(version)
        index.save()
        return found

    def parents(self, version: Version) -> list[Parent]:
        """The inputs of a version, in the manifest's order."""
        return [Parent(role, record, self._made_from(record)) for role, record in version.manifest.each_input()]

    def _made_from(self, record: dict[str, Any]) -> Version | None:
        try:
            ref = Ref.parse(record["ref"])
        except UserError:
            return None
        if ref.version is None or not self.version_path(ref.name, ref.version).is_dir():
            return None
        try:
            version = self.version(ref.name, ref.version)
        except UserError:
            return None
        return version if version.digest == record["digest"] else None

    # -- writing -------------------------------------------------------------------------------------------------

    @property
    def runs_root(self) -> Path:
        """Where the runs' private folders are."""
        return self.root / ".runs"

    def run_dir(self, identity: str) -> Path:
        """The private folder (mode 0700) where the run with this identity keeps what it needs to resume."""
        folder = self.runs_root / _check_identity(identity)
        with explain_disk_errors("make the run's folder", folder):
            mark_format(self.root)
            make_folder(folder, 0o700)
            if folder.stat().st_mode & 0o077:  # an older align, or a copy, made it
                folder.chmod(0o700)
            check_kinds(folder, folders=_RUN_FOLDERS, files=_RUN_FILES)
        return folder

    def stage(self, name: str) -> Path:
        """A new hidden folder on the store's file system to fill and then `publish`."""
        folder = self.root / check_name(name) / unique_name(f"{STAGING}{processes.tag()}-")
        with explain_disk_errors(f"prepare a version of {name}", folder):
            mark_format(self.root)
            make_folder(folder)
        return folder

    def publish(
        self,
        folder: Path,
        *,
        name: str,
        type: str,
        format: str | None = None,
        inputs: dict[str, Any] | None = None,
        identity: str | None = None,
        config_digest: str | None = None,
        packages: dict[str, str] | None = None,
        git_commit: str | None = None,
        seed: int | None = None,
        metrics: dict[str, Any] | None = None,
        started: str | None = None,
        ended: str | None = None,
        wandb: dict[str, Any] | None = None,
        adapter: dict[str, Any] | None = None,
        notes: dict[str, Any] | None = None,
        alias: str | None = LATEST,
    ) -> Version:
        """Make the folder that `stage(name)` gave the next version of `name`, all or nothing, and point `alias` at it.

        Files are hashed, made durable and read-only; the manifest comes last, then one rename. `inputs` maps a role to
        what `Input.to_manifest()` gives, or to a list of such; `ended` defaults to now. After an error the folder is
        still there, unpublished. UserError for what may not be in an artifact, for no space and for no permission;
        ValueError for arguments that no user chose.
        """
        if folder.parent != self.root / check_name(name) or not folder.name.startswith(STAGING):
            raise ValueError(f"{folder} did not come from stage({name!r})")
        if alias is not None:
            check_alias(alias)
        draft = Manifest(
            name=name,
            version=1,
            type=type,
            files={},
            format=format,
            inputs=inputs or {},
            identity=None if identity is None else _check_identity(identity),
            config_digest=config_digest,
            packages=packages or {},
            git_commit=git_commit,
            seed=seed,
            metrics=json_numbers(metrics or {}),
            started=started,
            ended=ended or utc_now(),
            wandb=wandb,
            adapter=adapter,
            notes=json_numbers(notes or {}),
        )
        draft.to_json()  # what JSON cannot hold is found before the hours of hashing, not after
        with explain_disk_errors(f"publish {name} (its files stay in {folder})", folder):
            try:
                sealed = replace(draft, files=seal(folder))
                number = self._next_number(name)
                while (version := self._publish_as(number, folder, sealed, alias)) is None:
                    number += 1
            except FileNotFoundError as error:
                if folder.is_dir():
                    raise
                raise UserError(
                    f"the unpublished folder {folder} was removed while it was being published: run again, and keep "
                    "`align artifacts gc` of other hosts from it with --grace-days"
                ) from error
        return version

    def _publish_as(self, number: int, folder: Path, sealed: Manifest, alias: str | None) -> Version | None:
        """Publish under one number and point the alias; None if the number is taken."""
        path = self.version_path(sealed.name, number)
        # Claimed before it exists, so that `gc` never finds it without an alias and without a claim.
        with claims.claimed(self.root, sealed.name, number):
            manifest = rename_onto(folder, path, sealed, number)
            if manifest is None:
                return None
            version = Version(sealed.name, number, path, manifest)
            if alias is not None:
                self.point(version, alias)
            return version

    def claim(self, version: Version) -> Version:
        """Keep a version from `gc` while this process lives; UserError if it was removed in the meantime."""
        claims.claim(self.root, version.name, version.number)
        if not self._is_there(version):
            gone = read_removal(self.home(version.name), version.number)
            raise UserError(gone.sentence(self.home(version.name)) if gone else f"{version.ref} was removed just now")
        return version

    def _is_there(self, version: Version) -> bool:
        """Whether a version is there; waits at most a second while `gc` decides whether it goes.

        Call it after the claim or the alias is written. `gc` announces first and checks afterwards, so either it sees
        the claim and keeps the version, or this sees the announcement.
        """
        until = time.monotonic() + _DECIDED
        deciding = tuple(f"{prefix}{version.path.name}-" for prefix in (GOING, TRASH))
        while time.monotonic() < until and any(
            name.startswith(deciding) and processes.owner_is_alive(name) is not False
            for name in _list(self.home(version.name))
        ):
            time.sleep(0.01)
        return version.path.is_dir()

    def point(self, version: Version, alias: str = LATEST, *, expect: int | None = None) -> None:
        """Move an alias to a version; `latest` moves forward only. Does nothing where it is there already.

        A run that finds itself published points `latest` again: the first time may have died between the two.
        `expect` is the version number the alias must be at, 0 where it must be new; UserError if it is elsewhere.
        """
        folder = self.root / version.name / _ALIASES / check_alias(alias)
        with explain_disk_errors(f"move {version.name}:{alias} to v{version.number}", folder):
            aliases.move(folder, version.number, utc_now(), forward_only=alias == LATEST, expect=expect)
        # `gc` hides a version, looks at the aliases again and only then deletes: one of the two sees the other.
        if not self._is_there(version):
            raise UserError(f"{version.ref} was removed while {alias} moved to it; point {alias} at another version")

    def pins(self, name: str) -> list[int]:
        """The versions of `name` that `gc` must keep because somebody said so."""
        return _numbers(self.root / name / _PINS)

    def pin(self, version: Version) -> bool:
        """Keep a version from `gc`; False if it is pinned already."""
        folder = self.root / version.name / _PINS
        note = json.dumps({"when": utc_now(), "who": aliases.who()}) + "\n"
        with explain_disk_errors(f"pin {version.ref}", folder):
            make_folder(folder)
            done = create_exclusively(folder / version.path.name, note.encode())
        if not self._is_there(version):
            raise UserError(f"{version.ref} was removed while it was being pinned")
        return done

    def unpin(self, version: Version) -> bool:
        """Leave a version to `gc` again; False if it was not pinned."""
        folder = self.root / version.name / _PINS
        with explain_disk_errors(f"unpin {version.ref}", folder):
            try:
                (folder / version.path.name).unlink()
            except FileNotFoundError:
                return False
            sync_folder(folder)
        return True

    def _next_number(self, name: str) -> int:
        """One more than any number that is taken, or was: a removed version's, or one that an alias has named."""
        named: list[int] = []
        for alias in _list(self.root / name / _ALIASES):
            folder = self.root / name / _ALIASES / alias
            # `latest` only moves forward: its last entry is its highest, however long its log.
            last = aliases.read_current(folder) if alias == LATEST else None
            named += [last.version] if last else [entry.version for entry in aliases.read_log(folder)]
        return max([0, *self.numbers(name), *removed_numbers(self.home(name)), *named]) + 1

    def version_path(self, name: str, number: int) -> Path:
        """The folder of a version, whether it exists or not."""
        return self.root / name / f"v{number:04d}"


def utc_now() -> str:
    """Now as a manifest writes it: ISO 8601, UTC, whole seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _list(folder: Path) -> list[str]:
    """The names in a folder, sorted; none where there is no such folder. UserError where it cannot be read."""
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise unreadable(folder, error) from None


def _numbers(folder: Path) -> list[int]:
    return sorted(int(found[1]) for one in _list(folder) if (found := _VERSION_FOLDER.fullmatch(one)))


def _check_identity(identity: str) -> str:
    if not _IDENTITY.fullmatch(identity):
        raise ValueError(f"identity {identity!r} is not 8 to 64 hex digits")
    return identity
