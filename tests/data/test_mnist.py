import pytest

from tests.data.idx import *  # noqa: F403
from visionbench.data import MNIST, mnist

pytestmark = pytest.mark.fast


@pytest.fixture
def data_set():
    return MNIST, mnist
