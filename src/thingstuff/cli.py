"""The command line. The verb is found by hand, so that `thingstuff --help` imports neither torch nor pydantic."""

import difflib
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from thingstuff import __version__
from thingstuff.errors import InputError, InterruptedWork

VERBS = {
    "demo": "the first minute: scenes, a trained network, its score, pictures and a report",
    "train": "train a recipe",
    "evaluate": "score a checkpoint on a data set",
    "score": "score predictions of any tool in COCO panoptic format",
    "compare": "which of two models is better, by how much, how sure, and where it loses",
    "predict": "label pictures",
    "convert": "convert the weights of Detectron2, torchvision, mmdetection, UPSNet or PANet",
    "export": "write a network as ONNX, OpenVINO or torch.export file, and compare both",
    "data": "check, convert, prepare or show annotated pictures of your own",
    "recipes": "list the recipes, or show one",
}

USAGE = """\
usage: thingstuff VERB ...

Panoptic segmentation: every pixel gets a class, every object its own segment.

verbs:
{verbs}

options:
  --help      this text; after a verb, what the verb takes
  --version   the version
  --debug     show where an error came from

examples:
  thingstuff demo
  thingstuff train tiny_scenes --out runs/scenes
  thingstuff predict tiny-scenes pictures/ --out labelled --overlay
"""

SUCCESS, FAILED, WRONG_INPUT = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code is 0, 1 where something failed on the way, or 2 where the input was wrong."""
    for stream in (sys.stdout, sys.stderr):
        # Names of classes and files may have letters that a terminal or pipe cannot show; that must not end the work.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    if words[:1] == ["help"] and words[1:]:
        words = [words[1], "--help"]
    try:
        with _stop_like_interrupt():
            code = _answer(words)
        sys.stdout.flush()
        return code
    except InputError as error:
        return _complain(str(error), WRONG_INPUT, debug)
    except InterruptedWork as error:
        return _complain(str(error), FAILED, debug)
    except KeyboardInterrupt:
        return _complain("interrupted; what was finished before is kept", FAILED, debug)
    except BrokenPipeError:
        # Whoever pipes the output into `head` closes it early; that is no error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return SUCCESS
    except Exception as error:  # the last resort: one line instead of a traceback
        text = " ".join(str(error).split()) or type(error).__name__
        return _complain(f"{type(error).__name__}: {text} (run again with --debug to see where)", FAILED, debug)


@contextmanager
def _stop_like_interrupt() -> Iterator[None]:
    """A service manager's stop is a person's Ctrl-C: what is done is written before the end."""
    if threading.current_thread() is not threading.main_thread():  # only there can signals be handled
        yield
        return
    usual = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, usual or signal.SIG_DFL)


def _answer(words: list[str]) -> int:
    if not words or words[0] in ("--help", "-h", "help"):
        sys.stdout.write(USAGE.format(verbs="\n".join(f"  {verb:10s}{text}" for verb, text in VERBS.items())))
        return SUCCESS if words else WRONG_INPUT
    if words[0] in ("--version", "-V"):
        sys.stdout.write(f"thingstuff {__version__}\n")
        return SUCCESS
    return _run(words[0], words[1:])


def _run(verb: str, words: list[str]) -> int:
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean {near[0]}? There are" if near else "there are"
        raise InputError(f"there is no verb {verb!r}; {hint}: {', '.join(VERBS)}")
    from thingstuff import commands

    command: Callable[[list[str]], int] = getattr(commands, verb)
    return command(words)


def _complain(message: str, code: int, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exc()
    sys.stderr.write(f"thingstuff: {' '.join(message.splitlines())}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
