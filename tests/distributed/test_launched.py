# SPDX-License-Identifier: Apache-2.0
"""How a process was started, told from the variables of launchers and of SLURM."""

import subprocess
import sys

import pytest

from diffnext.distributed import launched

STEP = {  # task 5 of `srun --nodes 3 --ntasks 5`, as SLURM 23.11 describes it
    "SLURM_JOB_ID": "4217",
    "SLURM_PROCID": "4",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "2",
    "SLURM_NTASKS": "5",
    "SLURM_STEP_NUM_TASKS": "5",
    "SLURM_STEP_NODELIST": "gpu-[07-09]",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),1",
    "SLURM_JOB_NODELIST": "gpu-[07-09]",
}


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in (*launched.VARIABLES, "LOCAL_WORLD_SIZE", "LOCAL_SIZE"):
        monkeypatch.delenv(name, raising=False)


def test_a_task_of_srun_gets_what_torchrun_would_set():
    assert launched.slurm_variables(STEP) == {
        "RANK": "4",
        "WORLD_SIZE": "5",
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": "gpu-07",
        "MASTER_PORT": "24217",
    }
    second = STEP | {"SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_NODEID": "0"}
    assert launched.slurm_variables(second)["LOCAL_RANK"] == "1"
    assert launched.slurm_variables(second)["LOCAL_WORLD_SIZE"] == "2"


def test_a_task_with_devices_of_its_own_counts_them_from_0():
    own = STEP | {"SLURM_LOCALID": "1", "SLURM_GPUS_PER_TASK": "1"}
    assert launched.slurm_variables(own)["LOCAL_RANK"] == "0"


@pytest.mark.parametrize(
    "environ",
    [
        {},
        # the script of `sbatch --ntasks 5`: one process, although it has a number
        {name: value for name, value in STEP.items() if "STEP" not in name},
        STEP | {"SLURM_STEP_NUM_TASKS": "1"},  # srun --pty bash
    ],
    ids=["nowhere", "sbatch", "shell"],
)
def test_a_process_alone_is_not_mistaken_for_one_of_many(environ):
    assert launched.slurm_variables(environ) == {}
    before = dict(environ)
    launched.adopt_slurm(environ)
    assert environ == before


def test_a_launcher_within_srun_wins():
    environ = STEP | {"RANK": "1", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
    before = dict(environ)
    launched.adopt_slurm(environ)
    assert environ == before


def test_a_port_of_the_user_stays():
    environ = STEP | {"MASTER_PORT": "29999"}
    launched.adopt_slurm(environ)
    assert environ["MASTER_PORT"] == "29999"
    assert environ["RANK"] == "4"


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu1", "gpu1"),
        ("gpu-[07-09,12],login1", "gpu-07"),
        ("a3,b[1-2]", "a3"),
        ("rack[2,4]node[001-016]", "rack2node001"),
        ("n[5]", "n5"),
        ("host.example.org,other", "host.example.org"),
    ],
)
def test_the_first_node_of_a_list(nodes, first):
    assert launched.first_host(nodes) == first


@pytest.mark.parametrize(
    ("layout", "counts"), [("4", [4]), ("2(x3),1", [2, 2, 2, 1]), ("1,8(x2)", [1, 8, 8])]
)
def test_tasks_of_each_node(layout, counts):
    assert launched.tasks_per_node(layout) == counts


def test_a_world_that_nobody_has_started_is_refused(monkeypatch):
    launched.check_alone(8)
    monkeypatch.setenv("WORLD_SIZE", "8")
    launched.check_alone(8)
    with pytest.raises(ValueError, match=r"NUM_GPUS is 2 and WORLD_SIZE is 8.*RANK and LOCAL_RANK"):
        launched.check_alone(2)
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "0")
    launched.check_alone(2)


def test_ranks_lie_within_their_world(monkeypatch):
    for name, value in {"RANK": "5", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="RANK is 5 and WORLD_SIZE is 2; ranks count from 0"):
        launched.check_count(1)


def test_tasks_without_their_nodes_are_refused():
    environ = {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_TASKS_PER_NODE": "4"}
    with pytest.raises(ValueError, match=r"NUM_TASKS is 4, and SLURM_STEP_NODELIST or .* not set"):
        launched.slurm_variables(environ)


def test_the_launcher_s_side_needs_no_torch():
    code = (
        "import sys; from diffnext.engine.launchers import group, torchrun, deepspeed, agent;"
        "from diffnext.config import get_cfg; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_single_process_sees_the_gpu_of_its_number_among_the_visible_ones():
    assert launched.gpu_name(2, {}) == "2"
    assert launched.gpu_name(1, {"CUDA_VISIBLE_DEVICES": "3,GPU-5f,4"}) == "GPU-5f"
    with pytest.raises(ValueError, match=r"GPU_ID is 2, and CUDA_VISIBLE_DEVICES '3,4' shows 2"):
        launched.gpu_name(2, {"CUDA_VISIBLE_DEVICES": "3,4"})
