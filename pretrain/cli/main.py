"""`looksay VERB ...`: one sentence for every error, one table of exit codes (configs/errors.py)."""

import argparse
import errno
import os
import sys
import warnings
from collections.abc import Sequence

from configs.errors import DONE, FAILED, USAGE, RunError, UserError
from pretrain.cli import checkpoints, data, doctor, estimate, exchange, fetch, recipes, run, start, submit
from pretrain.cli.parser import Parser

INTERRUPTED = 130

ABOUT = """From pairs of pictures and text to a model that answers questions about pictures.

  start   demo        the whole job on real data, about ten minutes on two cores
          recipes     list, show, copy and compare recipes
          inspect     one sample as the model sees it
          doctor      is this machine fit, and what to fix
          fetch       models, tokenizers and weights into the cache, where there is a network
  data    data build | index | verify | show | tokenizer | pack | stream
  run     train       a recipe's stage
          evaluate    scores of a run against what a blind model can do
          generate    an answer about your picture
          report      a run as one self-contained page
          checkpoint  list | verify | prune
          import      a published model becomes a run at step 0
          export      a run as its family is published
          convert     pickled weights of a published model become safetensors
  cluster estimate    memory, time and cost of a recipe on a site
          submit      a command as a job of a cluster
          status      how far a run is
          cancel      take a run off the queue"""

EXAMPLES = """examples:
  looksay demo
  looksay recipes
  looksay data build photos/ runs/mine/data
  looksay train tiny_train
  looksay generate runs/demo/sft --image cat.png --prompt "what is this?"

`looksay VERB --help` has more. Exit codes: 0 done, 1 failed, 2 usage or bad input, 75 queue again, 93 do not queue again."""


def make_parser() -> Parser:
    """All verbs; nothing heavy is imported for it."""
    parser = Parser(prog="looksay", usage="looksay VERB [...]", description=ABOUT, epilog=EXAMPLES)
    parser.add_argument("--version", action="store_true", help="print the version")
    groups = parser.add_subparsers(
        dest="verb", metavar="VERB", prog="looksay", help=argparse.SUPPRESS, parser_class=Parser
    )
    for module in (start, recipes, data, run, checkpoints, exchange, fetch, estimate, submit, doctor):
        module.add_verbs(groups)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(arguments)
    except UserError as error:
        return _say(f"looksay: error: {error}", USAGE)
    except RunError as error:
        return _say(f"looksay: {error}", getattr(error, "exit_code", FAILED))
    except KeyboardInterrupt:
        return _say("looksay: interrupted; the same command goes on from where it was", INTERRUPTED)
    except BrokenPipeError:
        # The reader (`| head`) has what it wants; what Python would still flush goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except OSError as error:
        if error.filename is None and error.errno != errno.ENOSPC:
            raise
        return _say(f"looksay: {_sentence_of(error)}", FAILED)


def _run(arguments: list[str]) -> int:
    parser = make_parser()
    if not arguments:
        parser.print_help()
        return USAGE
    try:
        space = parser.parse_args(arguments)
    except SystemExit as left:  # --help
        return int(left.code or 0)
    if space.version:
        return _version()
    # Megatron says at every import that optional GPU libraries are missing: nothing that a user can act on.
    warnings.filterwarnings("ignore", category=UserWarning, module="megatron")
    code = space.handler(space)
    sys.stdout.flush()
    return code


def _version() -> int:
    from importlib.metadata import PackageNotFoundError, version

    try:
        print(f"looksay {version('looksay')}")
    except PackageNotFoundError:
        print("looksay, from a checkout that is not installed")
    return DONE


def _say(message: str, code: int) -> int:
    print(message, file=sys.stderr, flush=True)
    return code


def _sentence_of(error: OSError) -> str:
    """A failure of the file system. Other OSErrors without a file are bugs and keep their traceback."""
    if error.errno == errno.ENOSPC:
        return (
            f"no space is left{f' for {error.filename}' if error.filename else ''}: free some and run the command again"
        )
    return f"{error.filename}: {os.strerror(error.errno or 0)}: check the path and its permissions"


if __name__ == "__main__":
    sys.exit(main())
