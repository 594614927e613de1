"""Which normaliser of a file of weights reads the data?"""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from nndiag.lab.firstweights import stored_first

IMAGE = (3, 8, 8)


@dataclass(frozen=True)
class File:
    state: dict

    @property
    def shapes(self):
        return {name: tuple(item.shape) for name, item in self.state.items()}

    def tensors(self):
        return iter(self.state.items())


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.layer1 = nn.Sequential(nn.Conv2d(6, 6, 3), nn.BatchNorm2d(6))


@pytest.mark.parametrize("alphabetical", [False, True])
def test_the_normaliser_behind_the_layer_that_takes_the_datas_channels(alphabetical):
    state = Residual().state_dict()
    found = stored_first(File(dict(sorted(state.items())) if alphabetical else state), IMAGE)
    assert (found.name, found.layer) == ("bn1", "conv1")


def test_a_normaliser_that_reads_the_data_itself_has_no_layer_before_it():
    state = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).state_dict()
    assert (stored_first(File(state), IMAGE).name, stored_first(File(state), IMAGE).layer) == ("0", "")


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)),
        nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)),
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4)),
    ],
    ids=["no statistics", "another width", "no statistics of the first width"],
)
def test_weights_that_do_not_tell_are_left_alone(model):
    assert stored_first(File(model.state_dict()), IMAGE) is None


@pytest.mark.parametrize("between", [nn.Identity, nn.ReLU])
def test_statistics_fit_the_data_that_they_were_taken_from_and_no_others(between):
    torch.manual_seed(0)
    x = torch.rand(200, *IMAGE)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), between(), nn.BatchNorm2d(8, momentum=None))
    model(x)
    found = stored_first(File(model.state_dict()), IMAGE)
    assert found.fit(x).kl < 0.01
    assert found.fit(255 * x).kl > 10
