"""What a training leaves behind in its process."""

from mmengine.config import Config
from mmengine.logging import MMLogger

from mmdefect.apis.train import forget_earlier_run


def test_a_run_that_starts_in_the_second_of_another_one_has_a_log_of_its_own(tmp_path):
    leaf = tmp_path / 'leaf.py'
    leaf.write_text('x = 1\n')
    cfg = Config.fromfile(str(leaf))
    MMLogger.get_instance('leaf_20261125_190000', log_file=str(tmp_path / 'first.log')).info('first')
    MMLogger.get_instance('other_20261125_190000')
    forget_earlier_run(cfg)
    assert 'other_20261125_190000' in MMLogger._instance_dict
    MMLogger.get_instance('leaf_20261125_190000', log_file=str(tmp_path / 'second.log')).info('second')
    assert 'second' in (tmp_path / 'second.log').read_text()
    assert 'second' not in (tmp_path / 'first.log').read_text()
