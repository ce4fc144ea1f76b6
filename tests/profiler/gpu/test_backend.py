from profiler.gpu.fake import open_fake_gpu
from profiler.testing import BackendSuite


class TestPacked(BackendSuite):
    def open(self):
        return open_fake_gpu(at_once=4)


class TestSteps(BackendSuite):
    def open(self):
        return open_fake_gpu(packed=False)


class TestIncrements(BackendSuite):
    def open(self):
        return open_fake_gpu(method="graph-increment")
