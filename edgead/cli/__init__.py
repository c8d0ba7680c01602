"""The command line: one verb a step, which meet on disk in a bundle. The only place where all packages come together.

Exit codes: 0 done; 1 a measured gate was missed; 2 wrong usage, or wrong input; 3 something is not installed;
70 a fault of edgead itself; 130 stopped by Ctrl-C; 141 whoever read the output has gone.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence

from edgead.cli.answer import Answer, show
from edgead.cli.parser import parse
from edgead.errors import EdgeadError, GateError

INTERNAL, INTERRUPTED, PIPE_CLOSED = 70, 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    verb = next((word for word in words if not word.startswith("-")), "")
    name = f"edgead {verb}".rstrip()
    try:
        code = _run(words)
        sys.stdout.flush()
        return code
    except SystemExit as end:  # of argparse: --help, or an error that it has printed
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.flush()
            return end.code if isinstance(end.code, int) else 2
        return _hang_up()
    except BrokenPipeError:
        return _hang_up()
    except KeyboardInterrupt:
        return _fail(f"{name}: stopped", INTERRUPTED)
    except EdgeadError as error:
        _trace()
        return _fail(f"{name}: {error}", error.exit_code)
    except Exception as error:
        if not _trace():
            told = " ".join(str(error).split()) or "no message"
            line = f"{name}: internal error ({type(error).__name__}: {told[:300]}); EDGEAD_TRACEBACK=1 shows where"
            return _fail(f"{line}: please report it", INTERNAL)
        return INTERNAL


def _run(words: list[str]) -> int:
    wanted = parse(words)
    # What a verb, or a library below it, prints on its way belongs to stderr: stdout carries the answer alone.
    with contextlib.redirect_stdout(sys.stderr):
        answer: Answer | None = wanted.run(wanted)
    if answer is None:
        return 0
    show(answer, as_json=wanted.json)
    if answer.missed is not None:
        sys.stdout.flush()
        raise GateError(answer.missed)
    return 0


def _fail(line: str, code: int) -> int:
    with contextlib.suppress(BrokenPipeError):
        print(" ".join(line.splitlines()), file=sys.stderr, flush=True)  # a value in it may have lines of its own
    return code


def _trace() -> bool:
    """Print the traceback of the error being handled, if the user asked for it."""
    if os.environ.get("EDGEAD_TRACEBACK", "0") in ("", "0"):
        return False
    import traceback

    traceback.print_exc()
    return True


def _hang_up() -> int:
    """Point stdout nowhere, so that Python's own flush at the end does not fail again."""
    with _nowhere() as nowhere, contextlib.suppress(OSError, ValueError):
        os.dup2(nowhere, sys.stdout.fileno())
    return PIPE_CLOSED


@contextlib.contextmanager
def _nowhere() -> Iterator[int]:
    descriptor = os.open(os.devnull, os.O_WRONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
