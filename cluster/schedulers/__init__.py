"""A command as a job of a cluster. Standard library and configs only: it answers on a login node.

```
looksay submit -> Job (words of the command, nodes, ranks, folder of its logs)
                   |
      choose: which scheduler the site has
                   |
      slurm_script: Job + site -> the text of a script      ray_jobs: Job + site -> the JSON of a request
                   |                                                         |
      slurm: sbatch, scontrol, squeue, scancel              cluster/rayjobs/api: HTTP
```

job.py          a command as a job, and the state of one
choose.py       a site's scheduler
slurm_script.py the script of a SLURM job
slurm_words.py  words for sbatch's directives and for the shell, quoted
slurm.py        SLURM's commands; what they complain of as one sentence with its remedy
ray_jobs.py     jobs of a Ray cluster
submitted.py    which jobs a folder belongs to
"""
