"""Where configs and the files that they name are: the user's folders first, then the project's."""

import os
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from align.errors import UserError

_PACKAGE = Path(__file__).resolve().parents[1]
_CHECKOUT = _PACKAGE.parent
# The folder that holds conf/, data/ and launch/: a checkout, or what an installed wheel brings along.
PROJECT = _CHECKOUT if (_CHECKOUT / "conf" / "config.yaml").is_file() else _PACKAGE / "packaged"
CONF_VARIABLE = "ALIGN_CONF"  # folders of the user's own configs, separated as PATH is
CONF_ENTRY_POINTS = "align.configs"
CONFIG_DIR_HELP = "a folder of your own configs, laid out as conf/ and searched before it (also $ALIGN_CONF)"


def local_path(text: str) -> Path:
    """A file or folder as it is from the working directory, else from the project's root; it need not exist."""
    path = Path(text).expanduser()
    return path if path.is_absolute() or path.exists() or not (PROJECT / path).exists() else PROJECT / path


def conf_dirs() -> list[Path]:
    """The folders that are searched for configs: those of $ALIGN_CONF, of installed plug-ins, and the project's conf/.

    A plug-in is a package with a folder `conf`, named by an entry point in the group `align.configs`.

    Raises:
        UserError: one of $ALIGN_CONF is not a folder.
    """
    named = [Path(text).expanduser().resolve() for text in os.environ.get(CONF_VARIABLE, "").split(os.pathsep) if text]
    for folder in named:
        if not folder.is_dir():
            raise UserError(f"the config folder {folder} does not exist; correct --config-dir or ${CONF_VARIABLE}")
    return [*named, *_plugin_dirs(), PROJECT / "conf"]


@cache
def _plugin_dirs() -> list[Path]:
    specs = (find_spec(entry.value) for entry in entry_points(group=CONF_ENTRY_POINTS))
    folders = [Path(place, "conf") for spec in specs if spec for place in spec.submodule_search_locations or ()]
    return [folder for folder in folders if folder.is_dir()]


def add_conf_dir(folder: str | None) -> None:
    """Search `folder` before every other: `--config-dir`. Processes that this one starts inherit it."""
    if folder is not None:
        earlier = os.environ.get(CONF_VARIABLE)
        resolved = str(Path(folder).expanduser().resolve())
        os.environ[CONF_VARIABLE] = os.pathsep.join([resolved, *([earlier] if earlier else [])])
        conf_dirs()


def config_groups() -> list[str]:
    """The groups that the config folders offer: `stage`, `model`, `data`, ..."""
    return sorted({folder.name for root in conf_dirs() for folder in root.iterdir() if folder.is_dir()})


def config_choices(group: str) -> list[str]:
    """The names that a group offers."""
    return sorted({path.stem for root in conf_dirs() for path in (root / group).glob("*.yaml")})


def find_config(group: str, name: str) -> Path | None:
    """The YAML file that `group=name` means, None where there is none."""
    places = (root / group / f"{name}.yaml" for root in conf_dirs())
    return next((path for path in places if path.is_file()), None)
