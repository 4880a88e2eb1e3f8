"""Exit codes that one of our processes uses and another one reads. Standard library only."""

from __future__ import annotations

# Of a phase, a rank and a program that the command line runs.
DONE = 0
UNEXPLAINED = 1  # an exception that we do not raise on purpose: the traceback is in the log
REFUSED = 3  # bad input: error.json, or the program's JSON answer, says what is wrong
DISK_FULL = 5  # no space to write an error.json, so the code alone gives the reason
OUT_OF_MEMORY = 6
FILESYSTEM = 7  # a filesystem failed for longer than `patience` waits
ORPHANED = 70  # EX_SOFTWARE: the process that started the ranks is gone
NODE_LOST = 71  # EX_OSERR: a node disconnected or never connected
STOPPED = 75  # EX_TEMPFAIL: stopped on request; everything needed to resume is saved
PORT_IN_USE = 98  # EADDRINUSE: the port of the ranks' rendezvous; another port will do
KILLED = 137  # 128 + SIGKILL: usually the kernel, for want of memory

# Of a worker.
WORKER_UNFIT = 4  # the node failed its preflight checks for too long
WORKER_REQUEUE = 75  # work remains: the batch script requeues this array element
