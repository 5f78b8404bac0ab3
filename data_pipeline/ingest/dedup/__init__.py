"""Which rows are duplicates of an earlier one, over all shards, in bounded memory, whoever works on it in what order.

```
hashes of rows --spread by key--> buckets --compare--> drops --spread by position--> files of a span each --> marker
                 (near_keys)                (perceptual)
```

perceptual.py  what a picture looks like, in bytes, and whether two are copies of one
near_keys.py   buckets that copies share
buckets.py     rows of a partition of buckets -> drops
search.py      one search: rows to buckets, drops to spans, spans to files
exchange.py    arrays between tasks: Ray's object store, or temporary files
drops.py       the files, and reading them
run.py         the exact search, then the near one among what it left
"""
