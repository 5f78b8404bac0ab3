"""Is this machine fit for training, and what to do where it is not. Standard library only; measurements are above, in pretrain/doctor.

```
versions, machine, disk, reach  -->  findings (ok | warn | fail, what was found, what to fix)  -->  `looksay doctor`
```

findings.py  one thing that was looked at, and the verdict of all
versions.py  what is installed, and whether it fits together
machine.py   processors, GPUs, memory, limits of the process
disk.py      file systems: kind, space, inodes; shared memory
reach.py     SLURM and Ray
"""
