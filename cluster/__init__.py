"""Where ranks run: who started this process, and how to start more.

```
torchrun | srun | launch --environment--> place: rank, world, address
                   |
            rank-N.log, echo of rank 0, first failure named, the rest ended
```

place.py   which rank this process is, from the environment of torchrun, SLURM or our launcher
launch.py  starts ranks on this machine, watches them, says what went wrong
"""
