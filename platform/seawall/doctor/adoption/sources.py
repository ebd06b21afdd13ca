"""The application's files: its source, to find places in, and the files that start its workers."""

import contextlib
import io
import itertools
import os
import re
import sys
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from traceback import extract_tb
from types import CodeType
from typing import Final

_PACKAGE: Final = Path(__file__).parents[2]  # ours: an example of a setting is no setting
_LARGEST: Final = 2_000_000  # bytes of a file that is read
_MOST: Final = 50_000  # files that are looked at
_QUOTE: Final = 2  # characters before the text of a key: r"
_LIBRARIES: Final = frozenset({"site-packages", "dist-packages", "node_modules", "__pycache__"})


@dataclass(kw_only=True)
class Sources:
    """What lies in the directory where the doctor runs, without libraries and environments below it."""

    root: Path = field(default_factory=Path.cwd)
    _loaded: dict[Path, str] | None = field(default=None, init=False)
    _python: dict[Path, str] | None = field(default=None, init=False)

    @property
    def loaded(self) -> dict[Path, str]:
        """The text of the modules that the application has imported, by path."""
        if self._loaded is None:
            self._loaded = self._read_loaded()
        return self._loaded

    @property
    def python(self) -> dict[Path, str]:
        """The text of every module, also of those that a worker does not import: who submits is elsewhere."""
        if self._python is None:
            self._python = self._read_python()
        return self._python

    def _read_loaded(self) -> dict[Path, str]:
        names = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
        paths = sorted({Path(name) for name in names if name and name.endswith(".py")})
        return {path: text for path in paths if self.is_ours(path) and (text := read_text(path)) is not None}

    def _read_python(self) -> dict[Path, str]:
        found = dict(self.loaded)
        for path in self.files(lambda name: name.endswith(".py"), depth=None):
            if path not in found and self.is_ours(path) and (text := read_text(path)) is not None:
                found[path] = text
        return found

    def files(self, wanted: Callable[[str], object], *, depth: int | None) -> Iterator[Path]:
        """Files of wanted names, at most so many directories below the root."""
        seen = 0
        for directory, below, names in os.walk(self.root):
            place = Path(directory)
            deep = depth is not None and len(place.relative_to(self.root).parts) >= depth
            below[:] = [] if deep else [name for name in sorted(below) if _is_searched(place / name)]
            seen += len(names)
            if seen > _MOST:
                return
            yield from (place / name for name in sorted(names) if wanted(name))

    def is_ours(self, path: Path) -> bool:
        """Whether a file belongs to the application, and not to a library or an environment below it."""
        return (
            path.is_relative_to(self.root)
            and not _LIBRARIES.intersection(path.parts)
            and not path.is_relative_to(_PACKAGE)
        )

    def name(self, shown: str, names: set[str]) -> str:
        """`shown` with the file and line where one of `names` is given a value, if that is found."""
        words = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
        given = re.compile(rf"\b(?:{words})\b[\"']?\]?[^\S\n]*(?::[^=\n]*)?[=:](?!=)")
        for path, text in self.loaded.items():
            if match := next((each for each in given.finditer(text) if _is_code(text, each.start())), None):
                return f"{shown} ({self.at(path, line_at(text, match.start()))})"
        return shown

    def assignment(self, path: Path, name: str) -> int | None:
        """The line where a loaded module gives a global name its value, or None if it does not."""
        text = self.loaded[path]
        match = re.search(rf"^{re.escape(name)}\b\s*(?::[^=\n]*)?=(?!=)", text, re.MULTILINE)
        return match and line_at(text, match.start())

    def line_of(self, code: CodeType) -> str:
        """The file and line of a function."""
        return self.at(Path(code.co_filename), code.co_firstlineno)

    def raised_at(self, exc: BaseException) -> str | None:
        """The last file and line of the application that an exception came through, if there is one."""
        steps = ((Path(each.filename), each.lineno or 0) for each in extract_tb(exc.__traceback__))
        own = [self.at(path, line) for path, line in steps if self.is_ours(path)]
        return own[-1] if own else None

    def at(self, path: Path, line: int) -> str:
        """`shop/tasks.py:12`."""
        return f"{path.relative_to(self.root) if path.is_relative_to(self.root) else path}:{line}"


def line_at(text: str, offset: int) -> int:
    """The number of the line that has a character."""
    return text.count("\n", 0, offset) + 1


def _is_code(text: str, offset: int) -> bool:
    """Whether a name in a module is one of its program, or a key in quotes, and not a word of its prose."""
    starts = list(itertools.accumulate(map(len, io.StringIO(text)), initial=0))
    with contextlib.suppress(tokenize.TokenError, SyntaxError):
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            start = starts[token.start[0] - 1] + token.start[1]
            if start <= offset < start + len(token.string):
                return token.type != tokenize.COMMENT and offset - start <= _QUOTE
    return True


def read_text(path: Path) -> str | None:
    """What a file holds, or None if it is no text, is very large or cannot be read."""
    try:
        return path.read_text(encoding="utf-8") if path.stat().st_size <= _LARGEST else None
    except (OSError, UnicodeDecodeError):
        return None


def _is_searched(directory: Path) -> bool:
    return not (
        directory.name.startswith(".") or directory.name in _LIBRARIES or (directory / "pyvenv.cfg").exists()
    )
