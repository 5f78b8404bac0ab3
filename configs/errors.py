"""How looksay says no: one sentence that names the file or key, the value and the remedy; one table of exit codes."""

DONE, FAILED, USAGE, REQUEUE, NO_REQUEUE = 0, 1, 2, 75, 93
"""Exit codes of every command: done, failed, bad input or usage, ask for a requeue, do not requeue."""


class UserError(ValueError):
    """Bad input. The message is one sentence: what is wrong (with its value) and what to do. Exit code USAGE."""


class RunError(RuntimeError):
    """The work failed for a reason outside the input (a dead rank, a full disk). Exit code FAILED."""
