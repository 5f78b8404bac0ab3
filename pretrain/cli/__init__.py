"""The command `looksay`: parsing and printing; every handler imports what it needs when it runs.

```
main: verb -> handler -> exit code
  |        \\
parser    start | recipes | data | run | checkpoints   one module a group of verbs
  |          |       |       |      |
  |        output (JSON or text)  preflight   bad input is refused before ranks or Ray start
  `-- nearest names of verbs and options
```

main.py       the entry point; errors to one sentence and an exit code
parser.py     argparse with the nearest name in its errors, and the options that verbs share
output.py     one way to print a result: text, or JSON with --json
start.py      demo, inspect
recipes.py    recipes: list, show, copy, schema, difference
build.py      data build
data.py       data verify, show, index, tokenizer
plan.py       data pack, data stream
checkpoints.py checkpoint list, verify, prune
exchange.py   import, export, convert
fetch.py      fetch
run.py        train, evaluate, generate, report
estimate.py   estimate: a recipe on a site
estimate_text.py  its results as trees for programs and tables for people
submit.py     submit, status, cancel
stages_of.py  a command line as a job of a cluster
preflight.py  what a training recipe needs, checked without torch
doctor.py        looksay doctor
"""
