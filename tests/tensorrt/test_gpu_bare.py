"""Bare execution of an engine, which the GPU check measures against, driven through the doubles."""

import gc
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cuda_bindings_double import cuda_bindings
from cuda_double import Machine, cuda_driver
from deploy_graphs import deploy_graph
from tensorrt_double import PLAN, tensorrt_module

from lrdan_edge.errors import BackendError

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    machine = Machine()
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    driver = cuda_driver(machine)
    pycuda = ModuleType("pycuda")
    monkeypatch.setattr(pycuda, "driver", driver, raising=False)
    doubles = {"tensorrt": tensorrt_module(machine), "pycuda": pycuda, "pycuda.driver": driver}
    for name, module in (doubles | {"cuda.bindings.driver": cuda_bindings(machine)}).items():
        monkeypatch.setitem(sys.modules, name, module)
    yield machine
    gc.collect()
    assert machine.violations == []
    assert machine.idle()


def bare_engine() -> Any:
    from gpu_bare import BareEngine

    return BareEngine


@pytest.mark.parametrize("batch", [1, 4])
def test_calls_are_enqueued_one_after_the_other_and_timed_on_the_gpu(machine: Machine, batch: int) -> None:
    machine.profiles = [(1, 1, 1), (2, 4, 8)]
    with bare_engine()(PLAN + deploy_graph("fp32", 16, 3), batch) as bare:
        machine.calls.clear()
        assert bare.milliseconds(10) == 0.025
        assert machine.calls.count("execute_async_v3") == 10
        bare.capture()
        machine.calls.clear()
        bare.milliseconds(10)
        assert machine.calls.count("cuGraphLaunch") == 10
        assert "execute_async_v3" not in machine.calls


def test_a_batch_beyond_every_profile_is_refused(machine: Machine) -> None:
    assert machine
    with pytest.raises(BackendError, match="no profile for a batch of 9"):
        bare_engine()(PLAN + deploy_graph("fp32", 16, 3), 9)
