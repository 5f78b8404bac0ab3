"""The planner in a process of its own, once a node: it plans ahead of training, and every rank of the node asks it.

```
first local rank --starts--> process.py: Planner, two windows ahead <--Unix socket-- client.py of every local rank
```

source.py    what a loader asks of a plan, and the planner in this very process
process.py   the planner process
client.py    asking it
"""
