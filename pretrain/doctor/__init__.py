"""What this machine reaches, measured by local ranks: the figures that `looksay estimate` computes with.

```
measure --cluster/launch--> rank (all at once): peaks, kernels, engine, collectives
   |                                   |
   +---- figures of each rank <--------+----> site: a YAML file with the source of each figure
```

measure.py   starts the ranks, and puts what they measured together
rank.py      what each rank measures
peaks.py     matrix products by size, memory, collectives
kernels.py   the model's own operations, counted as the cost model counts them
hooks.py     what the engine and the optimizer take around the work
storage.py   round trip of a path or s3:// URL
site.py      figures as a site file
"""
