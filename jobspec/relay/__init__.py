"""`jobspec relay`: send jobs' curves and scores to W&B, each row once, whatever is killed when.

Workers and the queue do not depend on it. It reads the jobs' files and keeps its own state below
`ROOT/relay/`. docs/relay.md describes its guarantees.

```
wandb_run.py    what W&B should hold of a job, made from the job's files
reader.py       reads running jobs again and again, at the cost of their new rows
cursor.py       which row is which line of a run, written before it is sent
client_main.py  the process that runs the wandb client; the only module that imports wandb
client.py       starts that process, and asks it
client_pool.py  as many of these processes as are needed
sync.py         one run: opened, sent, counted, closed
online.py       all runs, pass after pass
offline.py      runs on disk, for `wandb sync`
verify.py       compares what arrived with the files
```
"""
