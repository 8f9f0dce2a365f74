"""What may not be in an artifact: pickles, code, links and names that mean something else elsewhere."""

import os
import stat
from pathlib import Path

from align.errors import UserError

_PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz"}
_CODE = {".py", ".pyc", ".pyo", ".pyd", ".so", ".dll", ".dylib", ".exe", ".sh", ".bat", ".ps1", ".js", ".ipynb"}
# Characters that look like the separators "/" and "\\" and are not, and the one that is on some systems.
_SEPARATORS = set("\\\u2044\u2215\u2216\u29f5\u29f8\u29f9\ufe68\uff0f\uff3c")
# What is not text, beside safetensors: tables, and the protocol buffers of SentencePiece's tokenizers.
_BINARY = {".parquet", ".model", ".spm"}
_HEAD = 4096  # bytes of a file that are looked at
# First bytes: a file under a harmless name can still be a program, or a pickle that some loader would open.
_MAGIC = {
    b"\x7fELF": "a program",
    b"#!": "a script",
    b"PK\x03\x04": "a zip archive (what torch.save writes)",
    b"\x80\x02": "a pickle",
    b"\x80\x03": "a pickle",
    b"\x80\x04": "a pickle",
    b"\x80\x05": "a pickle",
}


def check_file(inside: str, path: Path) -> None:
    """UserError, naming the file and the remedy, unless `path` may be published as `inside`.

    Execute bits are no reason (some file systems set them on every file): publishing takes them away.
    """
    if not inside.isprintable():
        raise UserError(f"file name {inside!r} has characters that cannot be printed: rename it before publishing")
    if odd := sorted(_SEPARATORS & set(inside)):
        raise UserError(
            f"file name {inside!r} has {odd[0]!r} (U+{ord(odd[0]):04X}), which looks like a folder's end: rename it"
        )
    mode = os.lstat(path).st_mode
    if stat.S_ISLNK(mode):
        raise UserError(
            f"{inside} is a symlink to {os.readlink(path)}: a version holds its own files only; copy the file itself"
        )
    if not stat.S_ISREG(mode):
        raise UserError(f"{inside} is not a regular file: a version holds regular files only; remove it")
    suffix = path.suffix.lower()
    if suffix in _PICKLES:
        raise UserError(f"{inside} may hold a pickle, which runs code when loaded: save weights as .safetensors")
    if suffix in _CODE:
        raise UserError(f"{inside} is code: an artifact holds data only; remove it")
    with open(path, "rb") as file:
        head = file.read(_HEAD)
    if suffix == ".safetensors":
        # Its first eight bytes are a length and may look like anything; then comes a JSON object.
        if head[8:9] != b"{":
            raise UserError(f"{inside} is not a safetensors file: its header does not start with '{{'; save it again")
        return
    for magic, what in _MAGIC.items():
        if head.startswith(magic):
            raise UserError(f"{inside} is {what} by its first bytes: an artifact holds data only; remove it")
    if b"\0" in head and suffix not in _BINARY:
        raise UserError(
            f"{inside} is neither text nor of a format that holds data alone: save weights as .safetensors, tables as "
            ".parquet or .jsonl"
        )
