"""Lengths of a dataset's samples under a tokenizer and template: counted once, then read anywhere in microseconds.

```
tars --tokenize--> DATASET/tokens/FINGERPRINT/NNNNN.counts --layout--> columns of a Lengths table --> plan
```

A table knows no resolution: pictures' sizes are kept, and `layout` turns them into tokens when a chunk is read. So
another model means no second pass, and a dataset of a billion samples costs a planner no memory.

format.py    one shard's counts as bytes, and any run of them by three short reads
make.py      counting: every sample tokenized, by as many processes as there are cores
lengths.py   counts + layout + the policy for long samples: what the planner reads
"""
