from __future__ import annotations

from worker.host import scheduler_env
from worker.host.identity import worker_id
from worker.host.scheduler_env import SchedulerEnv


def test_without_slurm_nothing_ends():
    found = scheduler_env.read({})
    assert found == SchedulerEnv()
    assert found.time_left_s() == float("inf")
    assert found.ends_at_utc is None


def test_a_first_run_has_no_restart_count():
    env = {"SLURM_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": "3", "SLURM_CLUSTER_NAME": "c"}
    found = scheduler_env.read({**env, "SLURM_JOB_END_TIME": "1000000000"})
    assert (found.job, found.array_task, found.restart_count) == ("77", "3", 0)
    assert found.time_left_s(now=999_999_400) == 600
    assert found.ends_at_utc == "2001-09-09T01:46:40Z"
    assert scheduler_env.read({**env, "SLURM_RESTART_COUNT": "2"}).restart_count == 2


def test_all_nodes_are_used_from_the_batch_script_and_one_from_a_step():
    env = {"SLURM_JOB_ID": "77", "SLURM_JOB_NUM_NODES": "2"}
    assert scheduler_env.read(env).nodes == 2
    assert scheduler_env.read({**env, "SLURM_STEP_ID": "0"}).nodes == 1


def test_a_worker_id_names_its_job_and_is_never_repeated():
    one, two = (worker_id(SchedulerEnv(job="77", restart_count=1)) for _ in range(2))
    assert "-77-1-" in one
    assert one != two
    assert len(one) <= 80


def test_an_element_is_called_as_people_call_it():
    env = {"SLURM_JOB_ID": "78", "SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": "1"}
    assert scheduler_env.read(env).element == "77_1" and scheduler_env.read(env).job == "78"
    assert scheduler_env.read({"SLURM_JOB_ID": "78"}).element == "78"
