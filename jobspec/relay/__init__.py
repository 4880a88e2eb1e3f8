"""`jobspec relay`: files → W&B, each row once, whoever is killed when.

Nothing here is asked by workers or by the queue; it reads the jobs' files and keeps its own below
`ROOT/relay/`. What is promised, and on what it rests, is in docs/relay.md.

```
runs.py     job's files → the runs that W&B should hold
cursor.py   which row is which line of a run: written before it is sent
writer.py   one relay a root
client.py   the only module that imports wandb: a process of its own
link.py     … and the relay's end of it
pool.py     … as many of them as are needed
feed.py     one run: counted, opened, fed, counted again, closed
online.py   all runs, pass after pass
offline.py  runs on disk, for `wandb sync`
verify.py   what arrived, held against the files; audit.py asks for it
```
"""
