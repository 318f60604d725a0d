"""What other tools call the fields of `launch:`: TPI, SkyPilot, dstack, TorchX, SageMaker, Vertex, torchrun, Slurm.

Who comes from there types their words first; the nearest of ours by its letters may mean something else.
"""

from __future__ import annotations

from collections.abc import Iterable

from sojourn.errors import nearest

_OURS = {
    "command": "script scripts run cmd commands entrypoint entry_point program args arguments hyperparameters execute",
    "where": "cloud clouds provider infra backend backends scheduler platform target",
    "machine": "instance instances instance_type instance_types machine_type vm vm_size resource_class h flavor",
    "gpu": "gpus accelerator accelerators accelerator_type accelerator_count num_gpus gpu_count gpu_type gres",
    "cpus": "cpu vcpu vcpus num_cpus cpus_per_task",
    "memory": "mem ram memory_gb memmb mem_gb",
    "disk": "disk_size disk_size_gb volume_size boot_disk_size_gb disk_gb storage_size",
    "boot_image": "image image_id image_uri ami os_image docker container",
    "market": "spot use_spot spot_policy use_spot_instances preemptible capacity_type strategy",
    "regions": "region zone zones location locations availability_zone",
    "wait": "max_wait max_wait_duration capacity_timeout retry_until_up",
    "nodes": "num_nodes nnodes parallelism replicas replica_count instance_count train_instance_count workers hosts",
    "processes": "nproc_per_node nproc processes_per_node ntasks_per_node tasks_per_node distribution ranks",
    "deadline": "timeout max_duration max_run max_runtime max_time time time_limit walltime ttl duration stop_after",
    "budget": "max_price price max_cost max_hourly_cost cost cost_limit",
    "grace": "stop_duration grace_period termination_grace_period",
    "environment": "setup pip requirements python packages dependencies conda venv requirements_file python_version",
    "variables": "env envs env_vars environment_variables environ",
    "secrets": "secret secret_env",
    "inputs": "input data dataset datasets file_mounts mounts files volumes",
    "outputs": "output results artifacts output_dir outs",
    "store": "bucket storage output_path staging_bucket staging_dir remote",
    "checkpoint": "checkpoints checkpoint_s3_uri checkpoint_dir ckpt",
    "metrics": "metric metric_definitions",
    "resumes": "retry retries max_retries job_recovery max_restarts max_restarts_on_errors recovery",
    "project_name": "name job_name base_job_name run_name task_name display_name",
}
_MEANT = {word: ours for ours, words in _OURS.items() for word in words.split()}
_OTHERWISE = {
    "resources": "write gpu:, cpus:, memory: and disk: directly below launch:",
    "workdir": "the directory is where you stand, or: --project DIR",
    "working_dir": "the directory is where you stand, or: --project DIR",
    "source_dir": "the directory is where you stand, or: --project DIR",
    "exclude": "what stays here is a line in .gitignore or .sojournignore",
    "ignore": "what stays here is a line in .gitignore or .sojournignore",
    "autostop": "machines go when the script ends, and at the latest after deadline:",
    "idle_timeout": "machines go when the script ends, and at the latest after deadline:",
    "permission_set": "machines have the role that `sojourn setup aws` makes",
    "ports": "machines open no ports; look at one by: sojourn exec",
    "schedule": "what runs by the clock is a deployment: sojourn deploy",
    "params": "parameters of the script stand beside launch:, not in it",
}


def meant(word: str, known: Iterable[str]) -> str:
    """A clause that says what an unknown word stands for here, or which of ours is nearest."""
    plain = word.lower().replace("-", "_")
    if plain in _OTHERWISE:
        return _OTHERWISE[plain]
    return f"did you mean {_MEANT[plain]!r}?" if plain in _MEANT else nearest(word, known)
