import pytest

from tests.data.idx import *  # noqa: F403
from visionbench.data import FashionMNIST, fashion_mnist

pytestmark = pytest.mark.fast


@pytest.fixture
def data_set():
    return FashionMNIST, fashion_mnist
