"""A data build: any source -> a dataset folder, the same bytes whatever is killed and however many work.

```
sources/ --list--> inputs --segments--> units --(Ray)--> work/*.unit --dedup/--> drops --cut--> shards --> manifest
                                          |
                 read, filters/, fetch/, decode, filters/, hashes: one unit, one committed file
```

record.py      one input row before anything was fetched
sources/       files, lists, tars, folders -> inputs with counted rows -> records
stock.py       all inputs of a source, and what changed since an earlier build
segments.py    input rows as numbered positions, units as runs of them
compose.py     neighbouring records -> samples of several pictures
fetch/         bytes of pictures, from wherever a record says they are
header.py      what a picture is, before a pixel is decoded
decode.py      encoded picture of any kind -> what is stored
jpeg.py        JPEG decoded no larger than it is needed
colour.py      any mode and profile -> sRGB
resize.py      the resize modes
encode.py      pixels -> jpg, png, webp
careful.py     decoding under hard limits, in a child process
careful_child.py  that child
watchdog.py    ends a worker whose picture takes too long or too much
filters/       what is not wanted, each with its reason; models that score
units.py       one unit of work: rows -> outcomes, committed as one file
making.py      rows of a unit on their way to their outcomes
unit_file.py   that file
dedup/         which samples are duplicates, over all units
tar_groups.py  members of a tar by key, going on behind damage
adopt.py       tars of others, indexed where they are
cut.py         units in input order -> shards with equal counts
tasks.py       tasks in this process or on Ray: bounded, repeated, doubled
ray_local.py   a Ray to run on
assemble.py    units, dedup, count, cut: from rows to shards
folder.py      what lies in an output folder
again.py       extending a dataset, trying failed rows again
rows_in.py     the rows that go into a build
publish.py     what describes a dataset; the manifest last
job.py         the build
progress.py    what a build says while it works
tally.py       counts, rates and events of all its starts
build_log.py   the log folder: lines, TensorBoard, the page
build_page.py  the log as a page
build_plots.py its charts
statistics.py  what shards hold, as sums
verify.py      conservation of rows and every hash, down to each member
shared.py     how many inodes a dataset takes, and whether the group can read it
gallery.py     a summary for the terminal, a page of pictures for a browser
"""
