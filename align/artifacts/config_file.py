"""The config.yaml of a version or a run, which may come from anybody: plain data of a bounded size, or nothing."""

from typing import Any

import yaml

LARGEST = 1_000_000  # bytes


class _Loader(yaml.SafeLoader):
    """Texts, numbers, lists and mappings: with aliases a kilobyte stands for gigabytes, or for itself."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("no config that align writes has an alias")
        return super().compose_node(parent, index)


for _kind in ("binary", "timestamp", "omap", "pairs", "set"):  # what JSON has not
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _Loader.construct_undefined)


def read_settings(content: bytes) -> dict[str, Any]:
    """The settings in the content of a config.yaml; empty for anything else."""
    if len(content) > LARGEST:
        return {}
    try:
        body = yaml.load(content, _Loader)  # a safe loader with less
    except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: a number of thousands of digits, no UTF-8
        return {}
    return body if isinstance(body, dict) else {}
