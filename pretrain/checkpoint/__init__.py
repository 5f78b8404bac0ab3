"""Checkpoints that know nothing of the topology that wrote them (docs/design/exact-resume.md).

    live tensors --copying--> staging buffer --saver (in the background)--> rank files --head--> committed
    head --choose (verified)--> reading (ranges) --> live tensors of any topology

head.py      which checkpoints there are, whose turn it is to write: versions put only where none is
geometry.py  which part of a stored piece is which part of a wanted one
files.py     a rank's file: written and hashed in one pass, read by ranges
copying.py   the copy out of live tensors, in the shadow of the next step
saver.py     one checkpoint in flight, committed when every rank's part is there
ledger.py    what each step of the committed history trained on
leftovers.py folders that no head names
proof.py     nothing was lost, nothing trained on twice
choose.py    the newest whole checkpoint; damage is named
pausing.py   named moments at which a test may do something from outside
reading.py   any topology's pieces into any other's engine, or into a plain model
"""
