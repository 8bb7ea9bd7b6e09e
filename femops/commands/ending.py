"""How a command ends: exit codes, errors in one line, interrupts, and the abort of all ranks."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import typer
from rich.console import Console

from femops.commands.faults import noted, of_files
from femops.errors import CaseError, NotConverged, Refused
from femops.packages import remedy

UNKNOWN_FAULT, INPUT_ERROR, NOT_CONVERGED, NOT_AS_EXPECTED, INTERRUPTED = 1, 2, 3, 4, 130
TERMINATED = 128 + signal.SIGTERM

errors = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
_FORWARDING = 0.5  # [s] in which mpirun passes on what a rank wrote; it drops the rest when a rank aborts


@contextmanager
def _noted_interrupts() -> Iterator[list[int]]:
    """Yield a list that records every Ctrl-C and every termination before KeyboardInterrupt is raised.

    Extensions may replace the KeyboardInterrupt by another exception, as ctypes does when it converts arguments. Only a
    single process handles its termination: one of several ranks may be inside MPI, where it never sees the exception.
    """
    from mpi4py import MPI

    noted: list[int] = []
    handled = [signal.SIGINT]
    if MPI.COMM_WORLD.size == 1:
        handled.append(signal.SIGTERM)
        # PETSc would take the signal for itself.
        os.environ["PETSC_OPTIONS"] = f"{os.environ.get('PETSC_OPTIONS', '')} -no_signal_handler".strip()
    previous = {number: signal.getsignal(number) for number in handled}

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)
        signal.default_int_handler(number, frame)

    for number, handler in previous.items():
        if handler in (signal.default_int_handler, signal.SIG_DFL):
            signal.signal(number, note)
    try:
        yield noted
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def exit_code(command: Callable[[], Any], arguments: list[str]) -> int:
    """Run a command; report errors in one line and return the exit code.

    Args:
        command: The command; it may return its exit code.
        arguments: Arguments of the command line, for messages.
    """
    interrupts: list[int] = []
    try:
        with _noted_interrupts() as interrupts:
            code = command() or 0
    except CaseError as error:
        return _fail(f"femops: {error}", INPUT_ERROR)
    except Refused as error:
        return _fail(f"femops: stopped: {error}", NOT_CONVERGED)
    except NotConverged as error:
        return _fail(f"femops: not converged: {error}", NOT_CONVERGED)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:  # noqa: BLE001 - one rank must not leave the others waiting
        if hasattr(error, "format_message"):
            message = error.format_message()
            return _fail(f"femops: {message}", INPUT_ERROR) if message else INPUT_ERROR
        if not interrupts:
            return _abort(error, arguments)
        code = INTERRUPTED
    if code == INTERRUPTED:  # typer may turn Ctrl-C into this code
        resumes = bool({"train", "sample"} & set(arguments[:1]))
        kept = (
            "run it again to go on"
            if resumes
            else "the files of the finished steps are complete, a training goes on in the next run"
        )
        terminated = signal.SIGTERM in interrupts
        how, code = ("terminated", TERMINATED) if terminated else ("interrupted", INTERRUPTED)
        return _fail(f"femops: {how}; {kept}", code)
    return int(code)


def _fail(message: str, code: int) -> int:
    errors.print(message)
    return code


def _abort(error: Exception, arguments: list[str]) -> int:
    """Report an unexpected error on this rank and abort all ranks."""
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    rank = comm.rank if comm.size > 1 else None
    known, prefix = of_files(error) or remedy(error), "femops: " if rank is None else f"femops: rank {rank}: "
    errors.quiet = False
    code = _fail(prefix + (known or noted(error, arguments, rank)), INPUT_ERROR if known else UNKNOWN_FAULT)
    if comm.size > 1:
        time.sleep(_FORWARDING)
        comm.Abort(code)
    return code
