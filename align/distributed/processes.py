"""Which process this is, in words that another one can check: is it still alive, on this host or elsewhere?

Process ids are used again, and mean nothing on another host, after a reboot or in another container. A process is
therefore named by its place (host, boot and namespace of process ids), its id and the kernel's start time of it.
"""

import contextlib
import os
import re
import zlib
from pathlib import Path

_TAG = re.compile(r"([0-9a-f]{8})\.([1-9][0-9]{0,9})\.([0-9]*)", re.ASCII)
_OWNER = re.compile(r"([0-9a-f]{8}\.[0-9]+\.[0-9]*)-[0-9a-f]{32}$")


def boot() -> str:
    """The kernel's boot id and the namespace of process ids; empty where there is no /proc."""
    with contextlib.suppress(OSError):
        text = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{text} {os.readlink('/proc/self/ns/pid')}"
    return ""


def start_of(pid: int) -> str | None:
    """When a process started, in the kernel's words; None if there is none, or only its zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    except FileNotFoundError:
        if Path("/proc/self").exists():
            return None
    except OSError:
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return ""


def tag() -> str:
    """This process in a few characters that may be part of a file's name: place, id and start time."""
    return f"{place()}.{os.getpid()}.{start_of(os.getpid()) or ''}"


def is_alive(text: str) -> bool | None:
    """Whether the process with this tag is alive; None where that cannot be known from here.

    Args:
        text: what `tag` gave in that process.
    """
    match = _TAG.fullmatch(text)
    if match is None or match[1] != place():
        return None
    return start_of(int(match[2])) == match[3]


def owner_is_alive(name: str) -> bool | None:
    """Whether the process that owns a hidden file or folder is alive; None where that is not known.

    Args:
        name: of the file; it ends in the owner's tag and 32 random hex digits.
    """
    match = _OWNER.search(name)
    return is_alive(match[1]) if match else None


def users_of(file: Path) -> list[int]:
    """The processes of this host that have `file` open or work in its folder, as far as this user may see.

    None is found where there is no /proc.
    """
    try:
        targets = {(status.st_dev, status.st_ino) for status in (file.stat(), file.parent.stat())}
    except FileNotFoundError:
        return []
    users = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            links = [folder / "cwd", *(folder / "fd").iterdir()]
        except OSError:  # gone, or another user's
            continue
        for link in links:
            with contextlib.suppress(OSError):
                status = link.stat()
                if (status.st_dev, status.st_ino) in targets:
                    users.append(int(folder.name))
                    break
    return users


def place() -> str:
    """Host, boot and namespace of process ids, in eight hex digits."""
    return f"{zlib.crc32(f'{os.uname().nodename} {boot()}'.encode()):08x}"
