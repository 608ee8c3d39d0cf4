"""Errors in a user's own code, as one line that names the place in their file."""

from __future__ import annotations

import linecache
import sysconfig
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from atoll.errors import AtollError, EngineError

# What is in these folders, or is no file at all, is nobody's own.
_PACKAGE = str(Path(__file__).parents[1])
_NOT_OWN = (_PACKAGE, *{sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})


@contextmanager
def user_code(
    what: str, passing: type[Exception] | tuple[type[Exception], ...] = ()
) -> Iterator[None]:
    """Run code that may be a user's own, so that an error in it names its place there.

    Parameters
    ----------
    what : str
        What is run, for the error: ``MyMethod.penalty``.
    passing : type or tuple of types
        Exceptions that are not the user's, and pass unchanged; an :class:`AtollError` always does.

    Raises
    ------
    EngineError
        One line with the exception, and the file, line and text of the user's last frame. The
        exception is its cause, with a traceback of the user's frames alone. An exception without
        any frame of the user's passes unchanged.
    """
    try:
        yield
    except AtollError:
        raise
    except passing:
        raise
    except Exception as error:
        frames = _own_frames(error.__traceback__)
        if not frames:
            raise
        raise EngineError(_line(what, error, frames[-1])) from error.with_traceback(_chain(frames))


def _own_frames(traceback: types.TracebackType | None) -> list[types.TracebackType]:
    found = []
    while traceback is not None:
        name = traceback.tb_frame.f_code.co_filename
        if not name.startswith((*_NOT_OWN, "<")):
            found.append(traceback)
        traceback = traceback.tb_next
    return found


def _chain(frames: list[types.TracebackType]) -> types.TracebackType | None:
    chain: types.TracebackType | None = None
    for frame in reversed(frames):
        chain = types.TracebackType(chain, frame.tb_frame, frame.tb_lasti, frame.tb_lineno)
    return chain


def _line(what: str, error: Exception, frame: types.TracebackType) -> str:
    path = Path(frame.tb_frame.f_code.co_filename)
    place = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    source = linecache.getline(str(path), frame.tb_lineno).strip()
    text = " ".join(str(error).split())
    said = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return f"{what} raised {said} ({place}:{frame.tb_lineno}{f': {source}' if source else ''})"
