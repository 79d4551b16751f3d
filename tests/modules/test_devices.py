import pytest
import torch

from composer.modules.base import use_default_device


@pytest.fixture(params=["cpu", "meta"])
def default(request):
    torch.set_default_device(request.param)
    yield request.param
    torch.set_default_device(None)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_tensors_are_made_where_it_says_whatever_the_default_is(device, default):
    with use_default_device(device):
        made = torch.empty(1).device.type
    assert (made, torch.empty(1).device.type) == (device, default)


def test_where_it_changes_nothing_no_call_of_torch_is_looked_at():
    before = len(torch.overrides._get_current_function_mode_stack())
    with use_default_device("cpu"):
        assert len(torch.overrides._get_current_function_mode_stack()) == before
