"""Operations are counted by torch's formulas, without torch's compiler."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from nndiag.lab.flops import FlopCounter

X = torch.randn(4, 3, 16, 16)
CASES = {
    "convolution": lambda: nn.Conv2d(3, 8, 3)(X),
    "linear": lambda: nn.Linear(16, 5)(X),
    "attention": lambda: functional.scaled_dot_product_attention(X, X, X),
    "grouped": lambda: nn.Conv2d(3, 6, 3, groups=3)(X),
    "nothing": lambda: X + 1,
}


@pytest.mark.parametrize("name", CASES)
def test_the_count_is_the_one_of_torchs_own_counter(name: str) -> None:
    """Both use the same formulas; ours is only lighter."""
    with torch.no_grad(), FlopCounter() as ours:
        CASES[name]()
    with torch.no_grad(), FlopCounterMode(display=False) as theirs:
        CASES[name]()
    assert ours.total == theirs.get_total_flops()


def test_a_linear_layer_takes_two_operations_per_weight_and_row() -> None:
    """2·rows·in·out."""
    with torch.no_grad(), FlopCounter() as counter:
        nn.Linear(10, 7, bias=False)(torch.zeros(3, 10))
    assert counter.total == 2 * 3 * 10 * 7


def test_counting_and_shapes_on_the_meta_device_import_no_compiler() -> None:
    """It would cost a second."""
    code = (
        "import sys, torch\n"
        "from nndiag.lab.flops import FlopCounter\n"
        "with torch.no_grad(), FlopCounter():\n"
        "    torch.nn.Linear(2, 2)(torch.zeros(1, 2))\n"
        "from nndiag.lab.uncompiled import uncompiled\n"
        "with uncompiled(), torch.device('meta'):\n"
        "    torch.nn.LSTM(3, 4)(torch.zeros(2, 1, 3))[0].softmax(-1).sum().backward()\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
