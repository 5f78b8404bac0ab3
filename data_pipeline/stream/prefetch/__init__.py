"""Micro-steps made ahead by worker processes, delivered in order. Workers hold no state of the stream.

```
loader --task: planned rows--> pool (a thread for each worker) --socket--> worker process: read, decode, collate
   ^                              |                                             |
   `---- batches, in order -------'<------- arrays in a memory file ------------'
```

transport.py  batches and planned rows as bytes over a socket, arrays in a memory file that no process outlives
worker.py     the worker process
process.py    a worker process as its parent sees it: started, asked, found dead
pool.py       tasks to workers, results in order; a dead worker's task is done again
"""
