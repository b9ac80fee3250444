"""The proof of a device: what is not there, or computes nothing, is named."""

import pytest
import torch

from heatmill.errors import DeviceUnusable
from heatmill_workers.models.device import check_device, main

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


def test_the_processor_computes() -> None:
    assert check_device("cpu") == ""


@no_gpu
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:7"])
def test_a_gpu_that_is_not_there_is_refused_by_the_setting(name: str) -> None:
    with pytest.raises(DeviceUnusable, match=f"HEATMILL_DEVICE={name}: .*CUDA"):
        check_device(name)


@pytest.mark.parametrize("name", ["gpu", "nvidia", "cuda:x", "CUDA"])
def test_a_name_that_is_no_device_is_refused(name: str) -> None:
    with pytest.raises(DeviceUnusable, match="PyTorch knows no such device"):
        check_device(name)


@no_gpu
def test_where_nothing_was_asked_for_the_processor_is_used_and_the_reason_said() -> None:
    assert check_device(None).endswith("the worker uses the processor")


def test_a_device_that_computes_nothing_is_refused() -> None:
    with pytest.raises(DeviceUnusable, match="computes nothing"):
        check_device("meta")


def test_the_status_says_whether_the_worker_can_work(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cpu"]) == 0
    assert capsys.readouterr().out == ""
    assert main(["meta"]) == 1
    assert "the device meta" in capsys.readouterr().out


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here")
def test_a_gpu_computes_and_one_too_many_is_counted() -> None:
    assert check_device(None) == check_device("cuda") == ""
    with pytest.raises(DeviceUnusable, match="CUDA devices, numbered from 0"):
        check_device("cuda:99")
