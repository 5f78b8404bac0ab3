"""Image-text pairs in, batches of rows out; numpy and Arrow only, torch begins in `pretrain/`.

```
pictures + texts                                        ids of rows, pixels or patches
       |                                                             ^
     ingest/  (once, on Ray)                                 stream/  (every run)
       \\                                                             /
        sample --> shard: NNNNN.tar + index + outcomes --> manifest.json
                              storage
```

The two halves meet only at the files in the middle, never in each other's code.

sample.py    what a sample is, and what a rejected row leaves behind
shard.py     one WebDataset tar and the index that makes it randomly readable
tar_scan.py  headers of a damaged tar, wherever they begin
shard_table.py  the shards of a dataset as columns
manifest.py  manifest.json, written last: its presence means that the dataset is whole
storage.py   bytes in and out, local or fsspec; a write is whole or not there
stores/      what is behind it: local files, S3, any other fsspec store
parts/       remote parts of recipes: one cache by sha256, and what fills it
ingest/      records -> dataset folder, and the proof that it is one
stream/      dataset folders -> plan -> packed rows -> batches
assets/      the embedded emoji set, with its notices
"""
