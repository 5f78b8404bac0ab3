"""Samples at random out of plain tars: by byte ranges of the index, every byte checked, nothing of it in memory at rest.

```
Dataset: sample number --> index of its shard --> ranges --> local: mmap or pread   --> checked members --> StoredSample
                                                     |----> remote: ranged requests, node-local cache        | or BadSample
                                                                                   misplaced: found again ---'
```

dataset.py    a dataset folder: sizes, keys, text, pictures of a sample; many samples at once
index.py      the index of a shard as columns, read when needed, bounded in bytes
members.py    what a sample's ranges are, and whether bytes are theirs
local.py      bytes of local tars: mapped, or read where mapping is risky
remote.py     bytes over the network: neighbours in one request, slow ones asked twice, retried to a deadline
threads.py    threads that wait for the network, and do not hold up a process that ends
cache.py      what was fetched, on the node's disk, for all its ranks
rescue.py     members of a damaged tar that lie elsewhere than the index says
"""
