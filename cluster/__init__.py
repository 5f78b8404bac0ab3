"""Where ranks run and how they start. Standard library only: it answers on a login node.

```
   torchrun, srun or our own launch
                |
   environment of each rank (RANK, WORLD_SIZE, MASTER_ADDR, ... or SLURM_*)
                |
   place: rank, world, node, address          None: this process stands alone
                |
   pretrain/mesh.py makes groups of it
```

place.py   which rank or node this process is, read from torchrun's, SLURM's, Ray's or our launcher's environment
hostlist.py  SLURM's short forms of hosts and tasks
interface.py  the network interface towards the other nodes; settings of NCCL, gloo and threads for the log
gather.py  before ranks start: the nodes meet in the run's folder, which proves that they share it
preempt.py signals and the end of the job's time set a flag
heartbeat.py  signs of life of all ranks, and who is to blame
warm.py    a process with the heavy imports done, of which ranks are forked
ranks.py   ranks as processes: forked from the warm one, or started afresh
launch.py  local ranks: a fresh port, a log each, all ended when one fails, and what that one said last
scratch.py this job's folder on the node's own disk: op caches, sockets
rayjobs/   work on Ray: jobs, ranks on its nodes, a cluster of our own inside an allocation
schedulers/  a command as a job: the script, and SLURM's own commands
doctor/    whether this machine is fit, and what to fix
cost/      what a recipe needs and takes on a site, by arithmetic: memory, traffic, FLOPs, seconds, failures
"""
