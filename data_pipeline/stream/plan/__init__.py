"""Lengths -> rows -> optimizer steps: a pure function of recipe and data, the same on any number of ranks.

```
counts (lengths of each sample) --> order (chunks, epochs) --> mixture --> window --> packing --> balance --> steps
                                                                  ^            |
                                                                  |--- state --|--> plan.log
```

rows.py      what a plan says: columns of samples, and where each row begins
mixture.py   which source each draw comes from
packing.py   samples into rows of fixed length
planner.py   windows of steps, the state between them, seeking
"""
