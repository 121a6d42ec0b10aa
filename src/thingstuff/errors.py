"""Errors whose message is meant for the person at the keyboard."""


class InputError(ValueError):
    """Something the user gave is wrong: a file, a field, a value.

    The message is one line that names the file or field, the value, what was expected and the remedy.
    The command line prints it without a traceback and ends with exit code 2.
    """


class FileDiffers(InputError):
    """An exported file sees something else than its network; exporting again would change nothing."""


class InterruptedWork(RuntimeError):
    """Work that had begun could not go on; what was finished before is kept.

    The message is one line like that of ``InputError``, and says how to go on. The command line ends with exit code 1.
    """
