"""Lengths -> rows -> optimizer steps: a pure function of recipe and data, the same on any number of ranks.

```
lengths --> order (chunks, epochs) --> draw (mixture) --> window: packing --> balance --> steps
                                         ^                  |
                                         `----- state ------+--> plan.log
```

rows.py      what a plan says: columns of samples, and where each row begins
order.py     draw order of one source, any place of it computed by itself
mixture.py   which source each draw comes from
draw.py      samples of all sources in draw order
packing.py   samples into rows of fixed length
fill.py      its compiled inner loop
balance.py   rows that cost alike side by side, and no step a curriculum
kernels.py   the compiled inner loops of mixture and balance
window.py    one window: draw, pack, arrange
state.py     where a window starts, in a few kilobytes
log.py       plan.log: the start of every window, found by bisection
planner.py   windows in turn, seeking, the identity of a plan
score.py     fill, waiting, lockstep efficiency of a plan
bare.py      the same planner on bare lengths
"""
