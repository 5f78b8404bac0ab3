"""What a site says of the engine's own time, and of kernels beside products: counted where the formulas say."""

from dataclasses import replace

import pytest

from cluster.cost.estimate import Estimate, Estimator
from cluster.cost.seconds import Device, kernel_seconds
from cluster.cost.work import OPTIMIZER_BYTES, Kernel
from configs.site import EngineConfig
from tests.cluster.test_cost import estimator_of

COST = EngineConfig(parameter_us=100.0, module_us=1000.0, element_ns=2.0, update_us=50.0, update_ns=3.0)


def ran(engine: dict[int, EngineConfig], ranks: int = 2, zero: int = 3, tp: int = 1) -> tuple[Estimator, Estimate]:
    made = estimator_of("laptop")
    made = replace(made, hardware=made.hardware.model_copy(update={"engine": engine}))
    return made, made.run(replace(made.setting, ranks=ranks, zero=zero, tp=tp))


@pytest.mark.parametrize(("zero", "tp"), [(0, 1), (1, 1), (2, 1), (3, 1), (3, 2)])
def test_the_engine_takes_so_much_a_parameter_module_and_element(zero: int, tp: int) -> None:
    given = {1 if zero == 2 else zero: COST}  # ZeRO 2 takes what ZeRO 1 does
    _, plain = ran({}, zero=zero, tp=tp)
    _, found = ran(given, zero=zero, tp=tp)
    trained = [p.weight.local(tp) for p in plain.model.weights if p.trained]
    # The tiny model: 4 decoder layers gathered whole, all else a parameter (of each norm, linear, lookup) at a time.
    leaves = sum(module.leaf for module in plain.model.modules)
    single = sum(bool(op.weights()) for m in plain.model.modules if not m.leaf for op in m.ops)
    assert leaves == 4 and single > 20
    micro = len(trained) * 100e-6 + sum(trained) * 2e-9 + (leaves + single) * 1e-3 * (zero == 3)
    assert found.seconds.engine == pytest.approx(micro * found.micro_steps)
    mine = sum(trained) / (plain.setting.dp if zero else 1)
    assert found.seconds.update == pytest.approx(len(trained) * 50e-6 + mine * 3e-9)
    assert plain.seconds.engine == 0 and found.seconds.compute == plain.seconds.compute
    assert found.seconds.total - plain.seconds.total == pytest.approx(
        found.seconds.engine + found.seconds.update - plain.seconds.update
    )


def test_without_it_an_update_is_bytes() -> None:
    made, found = ran({}, zero=3)
    trained = sum(p.weight.size for p in found.model.weights if p.trained)
    assert found.seconds.update == pytest.approx(trained / 2 * OPTIMIZER_BYTES / made.device(2).moving)


def test_bytes_beside_a_product_do_not_hide_behind_it() -> None:
    device = Device(peak=100.0, matmul=100.0, attention=10.0, moving=10.0, launch=0.5)
    assert kernel_seconds(Kernel(matrix=200, moved=10, kernels=2), device) == 2 + 1
    assert kernel_seconds(Kernel(matrix=200, moved=50, kernels=0), device) == 5
    assert kernel_seconds(Kernel(matrix=200, moved=10, kernels=0, beside=30), device) == 2 + 3
    assert kernel_seconds(Kernel(attention=20, kernels=0, beside=30), device) == 2 + 3
