"""The control groups (cgroups) that a process is in, of version 1 and 2: what a container may use."""

from pathlib import Path

ROOT = Path("/sys/fs/cgroup")  # where they are mounted
OWN = Path("/proc/self/cgroup")  # names those of this process


def own_cgroups(controller: str, root: Path = ROOT, own: Path = OWN) -> list[Path]:
    """The folders of this process's control group and of those above it, for one controller.

    Inside a container without a cgroup namespace `own` names folders that only the host has; the container's own
    group is then mounted at the root, which is always in the list.

    Args:
        controller: version 1's name, such as `cpu` or `memory`; version 2 has one tree for all.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return []
    folders = []
    for line in lines:
        number, controllers, path = line.split(":", 2)
        top = root if number == "0" else root / controller if controller in controllers.split(",") else None
        if top is not None:
            parts = Path(path.lstrip("/")).parts
            folders += [top.joinpath(*parts[:depth]) for depth in range(len(parts) + 1)]
    return folders
