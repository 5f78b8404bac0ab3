"""What a run trains on: a plan over lengths first, bytes only for the rows that are asked for.

```
counts per dataset --> tables --> plan (order, mixture, packing) --> step: rows of (source, epoch, index)
              ^                  ^                                                    |
            chat               layout                   making: read --> images --> collate --> batch
              ^                                                |                             |
          tokenizer                                  loader: service, prefetch --------------'
```

tokenizer.py   trains the small byte-level BPE tokenizer, or takes a published one
turns.py       a template applied: marks, contents and pictures of a sample, in order
rendered.py    these as one string -> token ids, where marks are texts of several tokens
chat.py        messages -> token ids, learned tokens, places of pictures
counts/        lengths of a dataset's samples, counted once and kept beside it
geometry.py    a resolution policy for one encoder and projector, as plain numbers
grids.py       the grid of a picture that is seen whole in its own shape
row_column.py  rows and columns of tiles with text tokens between them: sizes, counts, order
resolution.py  a picture's size -> its views, grids and tokens under any policy
measure.py     the same counts for millions of pictures at once
layout.py      a sample's counts: the function that planner and collator share; policies for long samples
tables.py      a recipe's data, opened: datasets, chat, geometry, planner
plan/          lengths -> rows -> optimizer steps; the same on any number of ranks
read/          samples at random out of tars, local or remote, every byte checked
making.py      planned rows -> batches; a pure function of the plan and the bytes
prefetch/      worker processes that make micro-steps ahead
service/       the planner in a process of its own, once a node
compiled.py    the decorator of compiled functions
resample.py    Pillow's resampling, the same bytes in a quarter of the time
images.py      stored bytes -> pixels -> grid -> patches
positions.py   where each position stands: plain, M-RoPE, shared by a picture
collate.py     samples -> batch, with exactly the planned counts
batch.py       the one object that the model eats
lines.py       row by row what a rank would train on
loader.py      batches of one data-parallel rank, a step ahead
statistics.py  fill, distribution and rows of a plan, for people
"""
