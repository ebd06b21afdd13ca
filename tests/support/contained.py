"""Run one program as a container runs it: `contained.py SPEC`, in namespaces of its own.

SPEC is JSON: `binds` of (source, target, writable) in the order of their mounting, `root` (an empty directory
on which the new root is built), `directory`, `environment` and `argv`. The program sees this machine
read-only, the targets at their places, and its environment alone. Its process is the one that was started.
"""

import ctypes
import json
import os
import sys
from pathlib import Path
from typing import Any, Final

_BIND, _RECURSIVE, _PRIVATE = 0x1000, 0x4000, 1 << 18
_MOUNT_SETATTR: Final = 442  # the number of the system call, on every architecture
_AT_FDCWD, _AT_RECURSIVE, _READ_ONLY = -100, 0x8000, 1
_C: Final = ctypes.CDLL(None, use_errno=True)


def main(spec: dict[str, Any]) -> None:
    """Build the root, enter it, become the program."""
    root = Path(spec["root"])
    _mount("none", Path("/"), flags=_PRIVATE | _RECURSIVE)
    _mount("tmpfs", root, kind=b"tmpfs")
    _mirror(Path("/"), root, [Path(target) for _, target, _ in spec["binds"] if not Path(target).exists()])
    for source, target, _ in spec["binds"]:
        _bind(Path(source), _below(root, Path(target)))
    _mount("tmpfs", root / "dev/shm", kind=b"tmpfs")
    _read_only(root, whether=True)
    for place in ("/dev/shm", "/proc", *(target for _, target, writable in spec["binds"] if writable)):
        _read_only(_below(root, Path(place)), whether=False)
    os.chroot(root)
    os.chdir(spec["directory"])
    os.execvpe(spec["argv"][0], spec["argv"], spec["environment"])  # noqa: S606 - the program under test


def _mirror(directory: Path, root: Path, missing: list[Path]) -> None:
    """All of `directory` in `root`, with room for what is `missing` on this machine."""
    for path in directory.iterdir():
        here = _below(root, path)
        if path.is_symlink():
            here.symlink_to(path.readlink())
        elif path.is_dir() and (within := [each for each in missing if each.is_relative_to(path)]):
            here.mkdir()
            _mirror(path, root, within)
        elif path.is_dir() or path.is_file():
            _bind(path, here)


def _bind(source: Path, target: Path) -> None:
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    elif not target.exists():
        target.touch()
    _mount(str(source), target, flags=_BIND | _RECURSIVE)


def _below(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")


def _mount(source: str, target: Path, *, kind: bytes | None = None, flags: int = 0) -> None:
    if _C.mount(source.encode(), os.fsencode(target), kind, ctypes.c_ulong(flags), None):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(target))


def _read_only(path: Path, *, whether: bool) -> None:
    """All mounts at and below `path`."""
    attributes = (ctypes.c_uint64 * 4)(*((_READ_ONLY, 0) if whether else (0, _READ_ONLY)), 0, 0)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    if _C.syscall(
        _MOUNT_SETATTR, _AT_FDCWD, os.fsencode(path), _AT_RECURSIVE, ctypes.byref(attributes), size
    ):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
