"""What holds for all tests."""

import signal

import pytest

# A shell without job control starts what it puts in the background with SIGINT ignored, and children inherit that:
# tests that interrupt a program would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope='module')
def own_cache(tmp_path_factory):
    """A cache that the tests of one module share with no others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('MMDEFECT_CACHE', str(tmp_path_factory.mktemp('cache')))
        yield
