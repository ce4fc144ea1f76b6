"""The methods that ship with the pruner itself, by the suite that any method can run."""

import pytest

from pruner.methods import open_method
from pruner.testing import MethodSuite

CONTROLS = ("uniform", "random", "l1", "l2", "taylor", "fpgm")


class TestGator(MethodSuite):
    def open(self):
        return open_method("gator")


@pytest.mark.parametrize("control", CONTROLS)
class TestControls(MethodSuite):
    @pytest.fixture(autouse=True)
    def _named(self, control):
        self.control = control

    def open(self):
        return open_method(self.control)
