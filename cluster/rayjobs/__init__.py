"""Work on Ray: jobs over its HTTP interface, ranks placed on its nodes, and a cluster of our own inside an allocation.

```
looksay submit -> schedulers/ray_jobs -> api: POST /api/jobs/            a login node, without ray
                                          |
             driver, on the head: runs the command there (a build uses all nodes by itself)
                                  or starts it on nodes:  placement -> launcher on each -> local ranks (cluster/launch)
                                          ^                                  |
                                          +-- a node or rank is lost --------+

srun -> own, on each node of a SLURM allocation: a head, workers, the command, and the end of all of it
```

Only `placement` and what `driver` does with nodes import ray, and late.

api.py       Ray's Jobs API over HTTP; what it complains of as one sentence
package.py   a checkout as the zip that Ray unpacks on its nodes
tokens.py    tokens: where they are, new ones
driver.py    what a Ray job runs
starts.py    a command on nodes, started again after a node was lost
placement.py a place on each of some nodes, or what is missing for it
launcher.py  the actor of a node: a process, its output, its end
child.py     a process whose output is read bit by bit and whose signals are passed on
own.py       a Ray of a job's own, from `srun` on each node to the end
reaping.py   all that descends from this process, ended
"""
