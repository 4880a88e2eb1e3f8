"""`jobspec relay`: send jobs' curves and scores to W&B and other destinations, each row once.

Workers and the queue do not depend on it. It reads the jobs' files and keeps its own state below
`ROOT/relay/`. docs/relay.md describes its guarantees.

```
tracked_run.py  what a destination should hold of a job, made from the job's files
reader.py       reads running jobs again and again, at the cost of their new rows
cursor.py       which row is which line of a run, written before it is sent
row_sink.py     what a destination must be able to do, and which ones there are
sink_*.py       one destination each; the only modules that import their clients
client_main.py  the process that runs a destination
client.py       starts that process, and asks it
client_pool.py  as many of these processes as are needed
sync.py         one run: opened, sent, counted, closed
job_sinks.py    which destinations a job's rows go to
online.py       all runs of one destination, pass after pass
relay_group.py  all destinations
offline.py      runs on disk, for `wandb sync`
verify.py       compares what arrived with the files
```
"""
