"""The command line: thin, by typer. A person's mistake ends in one sentence and exit code 2.

Each command is a file that registers itself on the application in `common.py`; a new one is named
in `_COMMANDS`. Flags of training are derived from `Training`, flags of a method from its signature,
so that both are written down once. torch is imported by the commands that need it, not by
``--help``.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from typing import Any

import typer

from domadapt.cli.common import app, say
from domadapt.cli.flags import known_flags, take_method_flags
from domadapt.errors import DomadaptError
from domadapt.memory import keep_freed_memory

#: The files of the commands, in the order of ``--help``.
_COMMANDS = (
    "adapt",
    "tune",
    "benchmark",
    "use",
    "report",
    "audit",
    "transferability",
    "layers",
    "finetune",
    "rank_sources",
    "listing",
    "selftest",
)
for _file in _COMMANDS:
    importlib.import_module(f"domadapt.cli.{_file}")

#: What typer raises where it cannot use a command line; typer has no public name for it.
_UsageError: Any = typer.BadParameter.__mro__[1]


def _sentence(error: Any, argv: list[str]) -> str:
    """What typer cannot use, in one sentence: what was given, what is allowed, where to look."""
    where = "domadapt" if error.ctx is None else error.ctx.command_path
    more = f"See `{where} --help`."
    option = getattr(error, "option_name", None)
    if option is not None:
        known = [flag for p in error.ctx.command.params for flag in p.opts] + known_flags
        near = difflib.get_close_matches(option, known, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        return f"`{where}` has no option {option}.{hint} {more}"
    text = " ".join(error.format_message().split()).replace("Value error, ", "").rstrip(".")
    flags = getattr(getattr(error, "param", None), "opts", [])
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        flag, equals, value = word.partition("=")
        given = value if equals else following
        if flag in flags and given and given not in text:
            text = f"{text}; got {given!r}"
    return f"{text}{'' if text.endswith('?') else '.'} {more}"


def main() -> None:
    """The entry point of ``domadapt``."""
    keep_freed_memory()
    argv = sys.argv[1:] or ["--help"]
    code: Any = 2
    try:
        rest = take_method_flags(argv)
        code = app(args=rest, prog_name="domadapt", standalone_mode=False)
    except typer.Exit as end:
        code = end.exit_code
    except DomadaptError as error:
        say(f"Error: {error}", error=True)
    except _UsageError as error:
        say(f"Error: {_sentence(error, argv)}", error=True)
    except OSError as error:
        # A full disk, a folder that may not be written to: nothing that a traceback explains.
        say(f"Error: {error.strerror or error}: {error.filename}.", error=True)
    except (KeyboardInterrupt, typer.Abort):
        say("Interrupted.", error=True)
        code = 130
    sys.exit(code)
