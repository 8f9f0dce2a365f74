"""Files that survive a power cut, and disk trouble told in one sentence."""

import contextlib
import errno
import fcntl
import os
import shutil
import stat
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

from align.errors import UserError

_FICLONE = 0x40049409  # ioctl of Linux: two files share their blocks until one is written
_FULL = (errno.ENOSPC, errno.EDQUOT)
_TORCH_WRITER = "inline_container"  # the source file that torch.save's write errors name
_NEARLY_FULL = 1 << 20  # bytes
_CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextlib.contextmanager
def explain_disk_errors(doing: str, place: Path) -> Iterator[None]:
    """Turn no space, no permission and a file in a folder's place, or the reverse, into a UserError.

    Other errors pass unchanged.

    `doing` completes "cannot ...", `place` is where the user should look when the error names no file.
    """
    try:
        yield
    except OSError as error:
        where = error.filename or place
        if is_full(error, place):
            raise UserError(
                f"cannot {doing}: no space left on the disk of {where}; free some and run again"
            ) from error
        if error.errno in _CLOSED:
            raise UserError(
                f"cannot {doing}: {where} may not be written; allow it, or choose another artifact root "
                "(artifacts.root=..., ALIGN_ARTIFACTS or --artifacts)"
            ) from error
        if error.errno == errno.ENOTDIR:
            raise UserError(f"cannot {doing}: {where} is a file where a folder is needed; move it away") from error
        if error.errno == errno.EISDIR:
            raise UserError(f"cannot {doing}: {where} is a folder where a file is needed; move it away") from error
        raise


def is_full(error: BaseException, place: Path) -> bool:
    """True if an error comes of a full disk, whichever library met it first; `place` is where it was writing.

    safetensors keeps the system's words and not its number; torch's writer keeps neither, so there the disk is asked.
    """
    if isinstance(error, OSError):
        return error.errno in _FULL
    words = str(error)
    if os.strerror(errno.ENOSPC) in words or os.strerror(errno.EDQUOT) in words:
        return True
    return _TORCH_WRITER in words and place.exists() and shutil.disk_usage(place).free < _NEARLY_FULL


def read_regular(path: Path | str, most: int) -> bytes:
    """The content of a regular file of at most `most` bytes, whatever else somebody has put in its place.

    Raises:
        FileNotFoundError, PermissionError and other OSErrors of the system.
        ValueError: it is a folder, a pipe or a device, which could block or never end; or it is larger.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENODEV):  # a socket, a device without a driver
            raise ValueError("it is not a regular file") from None
        raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"it is {'a folder' if stat.S_ISDIR(status.st_mode) else 'not a regular file'}")
        if status.st_size > most:
            raise ValueError(f"it has {status.st_size} bytes, more than {most}")
        with open(descriptor, "rb", buffering=0, closefd=False) as file:
            return file.readall()
    finally:
        os.close(descriptor)


def unreadable(path: Path | str, error: OSError) -> UserError:
    """The sentence about a file or folder of the store that the system does not let this process read."""
    return UserError(
        f"{path} cannot be read ({error.strerror or error}): ask its owner to make it readable, or check the disk"
    )


def unique_name(prefix: str) -> str:
    """`prefix` and 32 random hex digits: two processes, on whatever hosts, never choose the same."""
    return f"{prefix}{uuid.uuid4().hex}"


def sync_file(path: Path) -> None:
    """Make a file's bytes and mode durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path, mode: int = 0o777) -> None:
    """Create `folder` and its missing parents, each one durable in its own parent; `mode` is the last one's."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for one in reversed(missing):
        with contextlib.suppress(FileExistsError):
            os.mkdir(one, mode if one is missing[0] else 0o777)
        if not one.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(one))
        sync_folder(one.parent)


def check_kinds(folder: Path, *, folders: Iterable[str] = (), files: Iterable[str] = ()) -> None:
    """What is in `folder` under these names is what it should be, so that nothing fails halfway.

    Raises:
        UserError: a file lies where a folder is needed, or something else where a file is.
    """
    for name in folders:
        if os.path.lexists(folder / name) and not (folder / name).is_dir():
            raise UserError(f"{folder / name} is a file where a folder is needed; move it away")
    for name in files:
        if os.path.lexists(folder / name) and not (folder / name).is_file():
            raise UserError(f"{folder / name} is not a file, and one is needed there; move it away")


def write_durably(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Create `path` whole or not at all, replacing what was there; its folder is left for the caller to sync."""
    temporary = path.with_name(unique_name(".writing-"))
    try:
        _write_new(temporary, content, mode)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def create_exclusively(path: Path, content: bytes) -> bool:
    """Create `path` whole, durably and only if nobody else has; False if somebody has.

    A hard link is what makes it both whole and exclusive; where the file system has none the file is created
    exclusively and then filled, so a reader must be able to tell a whole one.
    """
    temporary = path.with_name(unique_name(".writing-"))
    try:
        _write_new(temporary, content, 0o444)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
                raise
            try:
                _write_new(path, content, 0o444)
            except FileExistsError:
                return False
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
    return True


def clone_file(source: Path, target: Path) -> None:
    """Make `target` a new file with the bytes of `source`, sharing the blocks where the file system can."""
    with open(source, "rb") as old, open(target, "xb") as new:
        try:
            fcntl.ioctl(new.fileno(), _FICLONE, old.fileno())
        except OSError:
            shutil.copyfileobj(old, new, 1 << 22)


def remove_tree(folder: Path) -> None:
    """Delete a folder and all in it, read-only files among it; what is gone already is no error."""
    for here, folders, files in os.walk(folder, topdown=False):
        for name in files:
            Path(here, name).unlink(missing_ok=True)
        for name in folders:
            path = Path(here, name)
            with contextlib.suppress(FileNotFoundError):
                path.unlink() if path.is_symlink() else path.rmdir()
    with contextlib.suppress(FileNotFoundError):
        folder.rmdir()


def _write_new(path: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        left = memoryview(content)
        while left:
            left = left[os.write(descriptor, left) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
