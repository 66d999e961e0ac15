"""The `tunesmith` command: its sub-commands, and how errors end it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import sys
import traceback
from typing import Annotated, Any, TextIO

import typer

from tunesmith import __version__
from tunesmith.cli import examples as _examples
from tunesmith.cli import inspect as _inspect
from tunesmith.cli import predict as _predict
from tunesmith.cli import pretrain as _pretrain
from tunesmith.cli import sample as _sample
from tunesmith.cli import search as _search
from tunesmith.cli import train as _train
from tunesmith.cli import tune as _tune
from tunesmith.cli import update as _update
from tunesmith.collecting import seldom
from tunesmith.errors import EXIT_INTERNAL, StorageError, TunesmithError, setting, speaking_flags

# typer brings a click of its own, whose usage errors have no public name but this
_UsageError: Any = typer.BadParameter.__bases__[0]

app = typer.Typer(
    name="tunesmith",
    help="Fine-tune a text encoder: from a file of labelled texts to a tested, saved model.",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"tunesmith {__version__}")
        raise typer.Exit


@app.callback()
def _root(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False) -> None:
    pass


app.command("train")(_train.train)
app.command("tune")(_tune.tune)
app.command("pretrain")(_pretrain.pretrain)
app.command("evaluate")(_predict.evaluate)
app.command("predict")(_predict.predict)
app.command("add-examples")(_examples.add_examples)
app.command("update")(_update.update)
app.command("history")(_update.history)
app.command("rollback")(_update.rollback)
app.command("check")(_inspect.check)
app.command("walk")(_inspect.walk)
app.command("models")(_inspect.models)
app.command("sample")(_sample.sample)
app.command("index")(_search.index)
app.command("search")(_search.search)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and end the process with 0, or with the exit status of the error's branch.

    2 usage, 3 data, 4 model, 5 storage, 6 an update refused, 130 interrupted, 70 a fault of tunesmith itself.
    """
    seldom()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal may be of any encoding; what goes into a file or another program is UTF-8
            stream.reconfigure(encoding=stream.encoding if stream.isatty() else "utf-8", errors="replace")
    with speaking_flags():
        status = _run(sys.argv[1:] if arguments is None else arguments)
    sys.exit(status)


def _give_up_stdout() -> None:
    """Have what is still to be written to stdout vanish, as Python writes it once more at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _has_no_reader(stream: TextIO) -> bool:
    with contextlib.suppress(OSError, ValueError):
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    return False


def _fault(error: Exception) -> str:
    place = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"a fault of tunesmith itself: {type(error).__name__}: {error} (at {os.path.basename(place.filename)}:{place.lineno}). "
        "Nothing that was saved is lost. Set TUNESMITH_DEBUG=1 to see the whole trace, and please report it."
    )


def _is_of_memory(error: Exception) -> bool:
    """Whether memory was used up; torch, which is not imported here, has an error of its own for a GPU's, and none for the processor's."""
    told = isinstance(error, RuntimeError) and "allocate memory" in str(error)
    return told or isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def _run(arguments: list[str]) -> int:
    """Run the command line, print its error if it ends in one, and return the exit status."""
    status, message = 0, ""
    try:
        # typer returns the status of an early exit; Ctrl-C is one to it
        status = int(app(arguments, standalone_mode=False, prog_name="tunesmith") or 0)
        message = "stopped." if status == 130 else ""
        sys.stdout.flush()
    except (typer.Abort, KeyboardInterrupt):
        status, message = 130, "stopped."
    except TunesmithError as error:
        status, message = error.exit_code, str(error)
    except (BrokenPipeError, SystemExit):  # the latter is what typer makes of the former
        # whoever read our output has seen enough; a second error at shutdown helps nobody. Where the reader of what is said of the
        # work is gone as well, the work was cut off
        status = 128 + signal.SIGPIPE if _has_no_reader(sys.stderr) else 0
        _give_up_stdout()
    except _UsageError as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "tunesmith"
        # without arguments the help has been printed already, and there is nothing to add
        status, message = 2, f"{error.format_message()} See: {command} --help" if error.format_message() else ""
    except Exception as error:
        if os.environ.get("TUNESMITH_DEBUG"):
            traceback.print_exc()
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            _give_up_stdout()
            status, message = StorageError.exit_code, "cannot write the output: the disk is full. Free some space, or choose another place."
        elif _is_of_memory(error):
            lower = f"{setting('max_tokens')}, {setting('batch_size')} or {setting('max_length')}"
            status, message = 4, f"the memory is used up. Lower {lower}."
        else:
            status, message = EXIT_INTERNAL, _fault(error)
    if message:
        print(f"error: {message}", file=sys.stderr)
    if message and "--json" in arguments:
        print(json.dumps({"error": message, "exit_code": status}, ensure_ascii=False))
    return status
