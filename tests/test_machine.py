"""The cores and the memory of a process, and the limits of its control groups, in trees made up here."""

from __future__ import annotations

import math
import os

import pytest
import yaml

from modscale.machine import (
    available_cores,
    available_memory,
    cpu_quota,
    describe_machine,
    describe_versions,
    load_average,
    stolen_seconds,
)

V2 = "30 23 0:26 {root} {mount} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "33 32 0:30 {root} {mount} rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct\n"


class Tree:
    """A made-up /proc/self and the control groups it names."""

    def __init__(self, folder) -> None:
        self.proc, self.mount = folder / "proc", folder / "sys fs"
        (self.proc / "self").mkdir(parents=True)
        self.mount.mkdir()

    def describe(self, cgroup: str, mountinfo: str, root: str = "/") -> None:
        (self.proc / "self" / "cgroup").write_text(cgroup)
        mount = str(self.mount).replace(" ", r"\040")
        (self.proc / "self" / "mountinfo").write_text(
            "22 1 8:1 / / rw - ext4 /dev/vda rw\n" + mountinfo.format(root=root, mount=mount)
        )

    def group(self, path: str, **files: str) -> None:
        folder = self.mount / path
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name.replace("cpu_", "cpu.").replace("memory_", "memory.")).write_text(content + "\n")


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path)


@pytest.mark.parametrize(
    ("limit", "cores"),
    [("200000 100000", 2.0), ("max 100000", None), ("150000 100000", 1.5), ("50000 200000", 0.25), ("nonsense", None),
     ("100000 0", None), ("", None)],
)  # fmt: skip
def test_a_quota_of_version_2(tree, limit, cores):
    """`cpu.max` is quota and period in microseconds; `max` is no limit, and what is not understood is none either."""
    tree.describe("0::/box\n", V2)
    tree.group("box", cpu_max=limit)
    assert cpu_quota(tree.proc) == cores


@pytest.mark.parametrize(
    ("quota", "period", "cores"), [("200000", "100000", 2.0), ("-1", "100000", None), ("25000", "50000", 0.5)]
)
def test_a_quota_of_version_1(tree, quota, period, cores):
    """Two files, -1 for no limit; the other hierarchies of version 1 and an empty version 2 beside it do not matter."""
    tree.describe("4:memory:/other\n3:cpu,cpuacct:/box\n2:cpuset:/set\n0::/\n", V1)
    tree.group("box", cpu_cfs_quota_us=quota, cpu_cfs_period_us=period)
    tree.group("other", cpu_cfs_quota_us="1000", cpu_cfs_period_us="100000")
    tree.group("set", cpu_cfs_quota_us="1000", cpu_cfs_period_us="100000")
    assert cpu_quota(tree.proc) == cores


def test_the_lowest_quota_on_the_path_counts(tree):
    """Every group above the process's own limits it too; groups beside the path do not."""
    tree.describe("0::/a/b/c\n", V2)
    tree.group("a/b/c", cpu_max="800000 100000")
    tree.group("a/b", cpu_max="max 100000")
    tree.group("a", cpu_max="300000 100000")
    tree.group("a/b/d", cpu_max="100000 100000")
    assert cpu_quota(tree.proc) == 3.0
    tree.group("", cpu_max="250000 100000")
    assert cpu_quota(tree.proc) == 2.5


@pytest.mark.parametrize(
    ("group", "root"), [("/docker/7f/inner", "/docker/7f"), ("/../host", "/"), ("/elsewhere", "/docker/7f")]
)
def test_a_container_sees_a_part_of_the_tree(tree, group, root):
    """A mount may show only what lies below some group; a process outside of it has the mount's own limits."""
    tree.describe(f"0::{group}\n", V2, root=root)
    tree.group("", cpu_max="400000 100000")
    if group.endswith("inner"):
        tree.group("inner", cpu_max="200000 100000")
    assert cpu_quota(tree.proc) == (2.0 if group.endswith("inner") else 4.0)


def test_no_control_groups_is_no_quota(tree):
    """Another system than Linux, or files that cannot be read."""
    assert cpu_quota(tree.proc) is None
    tree.describe("not a line\n0::/box\n", "broken\n")
    assert cpu_quota(tree.proc) is None


@pytest.mark.parametrize("limit", ["100000 100000", "199999 100000", "10000 100000", "9900000 100000", "max 100000"])
def test_cores_are_whole_and_at_least_one(tree, limit):
    """The quota is rounded down, never below 1, and never adds cores that the process is not bound to."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    tree.describe("0::/box\n", V2)
    tree.group("box", cpu_max=limit)
    expected = {"max 100000": bound, "9900000 100000": min(bound, 99)}.get(limit, 1)
    assert available_cores(tree.proc) == expected


GIB = 2**30
V1_MEMORY = V1.replace("cpu,cpuacct", "memory")


@pytest.mark.parametrize(
    ("cgroup", "mounts", "file"),
    [("0::/a/b\n", V2, "memory_max"), ("4:memory:/a/b\n3:cpu,cpuacct:/c\n0::/\n", V1_MEMORY, "memory_limit_in_bytes")],
)
def test_memory_is_the_machines_or_the_least_limit_on_the_path(tree, monkeypatch, cgroup, mounts, file):
    """Both versions; what means no limit, or is not understood, is none, and no limit adds memory."""
    monkeypatch.setattr(os, "sysconf", lambda name: 4096 if name == "SC_PAGE_SIZE" else 8 * GIB // 4096)
    assert available_memory(tree.proc) == 8 * GIB
    tree.describe(cgroup, mounts)
    for limit, expected in (("max", 8), ("9223372036854771712", 8), ("", 8), (str(GIB), 1), (str(64 * GIB), 8)):
        tree.group("a/b", **{file: limit})
        assert available_memory(tree.proc) == expected * GIB
    tree.group("a", **{file: str(3 * GIB)})
    tree.group("c", **{file: str(GIB)})
    assert available_memory(tree.proc) == 3 * GIB


def test_cores_are_those_this_process_may_use():
    """A process that is bound to one core has one."""
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system binds no process to cores")
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert available_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)


def test_what_the_host_took(tree):
    """The eighth figure of /proc/stat's first line, in clock ticks; nothing where there is no such file."""
    assert stolen_seconds(tree.proc) is None
    (tree.proc / "stat").write_text("cpu  1 2 3 4 5 6 7 250 9 10\ncpu0 1 2 3 4 5 6 7 8 9 10\n")
    assert stolen_seconds(tree.proc) == 250 / os.sysconf("SC_CLK_TCK")
    load = load_average()
    assert load is None or (load >= 0 and math.isfinite(load))


def test_the_gpu_is_named_where_there_is_a_tool_to_ask(tmp_path, monkeypatch):
    """`nvidia-smi` is asked; without it, or where it fails, there is no GPU."""
    tool = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert describe_machine()["gpu"] is None
    for script, gpu in (
        ("echo 'NVIDIA H200, 580.95'; echo 'NVIDIA H200, 580.95'", "NVIDIA H200"),
        ("echo a, 1; exit 9", None),
    ):
        tool.write_text(f"#!/bin/sh\n{script}\n")
        tool.chmod(0o755)
        assert describe_machine()["gpu"] == gpu


def test_machine_and_versions_are_plain_values():
    """What run.yaml records of the machine survives safe YAML."""
    record = {**describe_machine(), **describe_versions()}
    assert yaml.safe_load(yaml.safe_dump(record)) == record
    assert {"torch", "onnxruntime", "optuna"} <= set(record)
