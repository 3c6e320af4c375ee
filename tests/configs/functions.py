# Functions, annotations, classes, comprehensions.
from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass
class Machine:
    cpus: int
    memory_mib: int


def number_of_workers(machine: Machine) -> int:
    return min(machine.cpus * 2, machine.memory_mib // 256)


workers: int = number_of_workers(Machine(cpus=2, memory_mib=1024))
bind: list[str] = [f"127.0.0.1:{port}" for port in (8001, 8002)]
raw_env: list[str] = [f"{name}={value}" for name, value in {"A": "1", "B": "2"}.items()]
max_requests: int = (lambda n: n * 100)(5)
del os
