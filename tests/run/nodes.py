"""Two nodes on one machine: a `pdsh` and an `ssh` that start commands here, with an environment of their own."""

import json
import os
import sys
from pathlib import Path

PDSH = """#!{python}
import re, subprocess, sys
words = sys.argv[1:]
hosts = words[words.index("-w") + 1].split(",")
line = " ".join(words[words.index("-w") + 2 :])
commands = []
for number, host in enumerate(hosts):
    values = {{"h": host, "u": "user", "n": str(number), "%": "%"}}
    remote = re.sub("%([hun%])", lambda found: values[found[1]], line)
    env = {{"HOME": "{home}/" + host, "PATH": "/usr/bin:/bin", "HOSTNAME": host}}
    commands.append(subprocess.Popen(["bash", "-c", remote], env=env))
sys.exit(max(command.wait() for command in commands))
"""
SSH = "#!/bin/sh\necho 127.0.0.1\n"
HOSTS = ("node-a", "node-b")

# In place of launch/run.py: what a process of a node was given.
DUMP = """
import json, os, pathlib, sys
found = {"words": sys.argv[1:], "env": dict(os.environ), "cwd": os.getcwd()}
pathlib.Path(os.environ["HOME"], "found.json").write_text(json.dumps(found))
"""


def make_nodes(folder: Path) -> tuple[Path, str]:
    """A hostfile of two nodes of one slot each, homes for them in `folder`, and the PATH that reaches them."""
    bin = folder / "bin"
    bin.mkdir(parents=True)
    for name, text in {"pdsh": PDSH.format(python=sys.executable, home=folder), "ssh": SSH}.items():
        (bin / name).write_text(text)
        (bin / name).chmod(0o755)
    hostfile = folder / "hosts"
    hostfile.write_text("".join(f"{host} slots=1\n" for host in HOSTS))
    for host in HOSTS:
        (folder / host).mkdir()
    return hostfile, f"{bin}{os.pathsep}{os.environ['PATH']}"


def found_by(folder: Path, host: str) -> dict:
    """What the process of a node was given, as DUMP wrote it."""
    return json.loads((folder / host / "found.json").read_text())
