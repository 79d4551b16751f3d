"""The free memory as Linux reports it: of the machine, and of the control groups that a container is in."""

from __future__ import annotations

import pytest

from composer.limits import get_free_memory

MACHINE = "MemTotal: 24000 kB\nMemFree: 100 kB\nMemAvailable:    9000 kB\nSwapTotal: 500 kB\nSwapFree: 400 kB\n"
AVAILABLE = 9400 * 1024

SYSTEMS = {
    "no files": ({}, None),
    "a machine": ({"proc/meminfo": MACHINE}, AVAILABLE),
    "a group": (
        {
            "proc/meminfo": MACHINE,
            "proc/self/cgroup": "0::/a/b\n",
            "groups/a/b/memory.max": "5000\n",
            "groups/a/b/memory.current": "3000\n",
            "groups/a/b/memory.stat": "active_file 7\ninactive_file 200\n",
        },
        2200,
    ),
    "a group around it": (
        {
            "proc/self/cgroup": "0::/a/b\n",
            "groups/a/b/memory.max": "max\n",
            "groups/a/b/memory.current": "30\n",
            "groups/a/memory.max": "1000\n",
            "groups/a/memory.current": "900\n",
        },
        100,
    ),
    "from inside of a container": (
        {"proc/self/cgroup": "0::/outside\n", "groups/memory.max": "1000\n", "groups/memory.current": "400\n"},
        600,
    ),
    "version 1": (
        {
            "proc/self/cgroup": "5:cpu,cpuacct:/c\n4:memory:/c\n",
            "groups/memory/c/memory.limit_in_bytes": "1000\n",
            "groups/memory/c/memory.usage_in_bytes": "700\n",
            "groups/memory/c/memory.stat": "total_inactive_file 50\n",
        },
        350,
    ),
    "more than the limit": (
        {"proc/self/cgroup": "0::/\n", "groups/memory.max": "10\n", "groups/memory.current": "20\n"},
        0,
    ),
}


@pytest.mark.parametrize(("files", "free"), SYSTEMS.values(), ids=SYSTEMS)
def test_free_memory(tmp_path, monkeypatch, files, free):
    monkeypatch.setattr("composer.limits.PROC", tmp_path / "proc")
    monkeypatch.setattr("composer.limits.GROUPS", tmp_path / "groups")
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="ascii")
    assert get_free_memory() == free
