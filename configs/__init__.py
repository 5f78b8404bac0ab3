"""What we agreed: recipes in YAML, checked by frozen pydantic models before any work starts.

```
recipes/NAME.yaml --extends--> recipes/BASE.yaml
        \\                        /
         load: merge, --set, every error at once with the nearest valid name
                        |
         schema: BuildRecipe | TrainRecipe   (frozen; a run keeps the resolved form as config.yaml)
          |          |         |        |
        ingest     model     data    training
          \\__________|_________|________/
                      base
```

errors.py    the two ways of saying no, and the one table of exit codes
base.py      the frozen base of every model, closed to unknown keys
ingest.py    what a data build reads, does and writes
encoders.py  vision transformers on a fixed grid or of native resolution, and CNNs
resolutions.py  from a picture of any size to views
projectors.py  from encoder features to decoder width
decoder.py   the language model
model.py     encoder x resolution x projector x decoder, and how they fit
data.py      what a training run reads: datasets, tokenizer, template, packing
templates.py  text templates of published families, by name
training.py  stage, optimizer, parallelism, checkpoints, logs, evaluation
schema.py    the two kinds of recipe, with the rules that join their parts
load.py      YAML to recipe and back: names, `extends`, `--set`, difference, JSON Schema
complaints.py  errors of a recipe as sentences: key, value, file, nearest valid name
patterns.py  module paths of `stage.train`, with ranges of layers
site.py      facts of a cluster: hardware with the source of each figure, and what its scheduler needs
scheduler.py what a site's scheduler is told: partition, account, sizes, environment
mounts.py    which file system a path is on: on a network's nothing is mapped or locked
listing.py   names and headers of recipes without pydantic, for commands that must answer at once
recipes/     packaged recipes; the header of each says command, hardware, expected time and number
sites/       packaged sites, every figure with its source
"""
