"""A data build: any source -> a dataset folder, the same bytes whatever is killed and however many work.

```
source --list--> records --compose--> records --units (Ray)--> work/NNNNNNN.parquet --cut--> shards --> manifest
                                         |
                        decode: header, orientation, alpha, size
```

sources.py  folder, JSON lines, parquet, easy-VQA -> records; what is wrong with a row is kept, not raised
compose.py  neighbouring records -> samples of several pictures
decode.py   encoded picture of any kind -> RGB of the wanted size -> encoded bytes
units.py    one unit of work: rows -> samples and rejects, committed as one file
cut.py      units in input order -> shards with equal counts, and the totals
job.py      the build: output check, Ray, units, cut, manifest
verify.py   conservation of rows and every hash, down to each member
gallery.py  a summary for the terminal, a page of pictures for a browser
"""
