"""Everything that depends on which OpenMMLab distribution is installed, and nothing else.

Two distributions provide the same import names: upstream (``mmengine``, ``mmcv``, ``mmsegmentation``,
``mmpretrain``) and its maintained continuation (``onedl-mmengine``, ...). The code of mmdefect imports only the
shared module names. Importing this module loads no ``mm*`` package; :func:`apply` does.

Each shim states what it fixes, when it can be deleted and the test that holds it.
"""

import functools
import importlib.util
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from types import ModuleType

from mmdefect.extras import require

#: Modules whose configs can be named as ``module::path`` in ``_base_``.
CONFIG_PACKAGES = ('mmdefect', 'mmseg', 'mmpretrain')

#: The distributions that provide each module; the first one is the maintained continuation.
DISTRIBUTIONS = {
    'mmengine': ('onedl-mmengine', 'mmengine', 'mmengine-lite'),
    'mmcv': ('onedl-mmcv', 'mmcv', 'mmcv-lite', 'mmcv-full'),
    'mmseg': ('onedl-mmsegmentation', 'mmsegmentation'),
    'mmpretrain': ('onedl-mmpretrain', 'mmpretrain'),
}

#: What fails without the compiled operators of mmcv; every other model, loss and tool runs without them.
NEEDS_COMPILED_OPS = (
    'PSAHead (PSANet), deformable convolution (`DCN`, `DCNv2`), `MMSyncBN`, and on a GPU the `FocalLoss` of mmseg '
    'and multi-scale deformable attention'
)


def installed_distributions(module: str) -> dict[str, str]:
    """Return ``{distribution: version}`` of every installed distribution that provides ``module``."""
    found = {}
    for name in DISTRIBUTIONS[module]:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def doubled_modules() -> dict[str, dict[str, str]]:
    """Return the modules that more than one installed distribution provides; there must be none."""
    installed = {module: installed_distributions(module) for module in DISTRIBUTIONS}
    return {module: found for module, found in installed.items() if len(found) > 1}


def has_compiled_ops() -> bool:
    """Whether the installed mmcv brings its compiled operators (without importing it)."""
    spec = importlib.util.find_spec('mmcv')
    return spec is not None and spec.origin is not None and any(Path(spec.origin).parent.glob('_ext*.*'))


def config_root(module: str) -> Path:
    """Return the folder that holds the configs of an installed module."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        remedy = 'run `python -m mmdefect doctor` for the exact pip command.'
        raise ModuleNotFoundError(f'`{module}::` needs the package {module}, which is not installed; {remedy}')
    package = Path(spec.origin).parent
    folders = [package / '.mim' / 'configs', package.parent / 'configs']
    for folder in folders:
        if (folder / '_base_').is_dir():
            return folder
    places = ' or '.join(map(str, folders))
    raise FileNotFoundError(f'the configs of `{module}` must lie in {places}, but do not; reinstall the package.')


def apply() -> None:
    """Make both distributions behave alike. Safe to call more than once; call it before importing mmseg."""
    require('mm')
    doubled = doubled_modules()
    if doubled:
        sources = '; '.join(f'{module} comes from {" and ".join(found)}' for module, found in doubled.items())
        remedy = 'run `python -m mmdefect doctor` for the commands that keep one of them.'
        raise RuntimeError(f'each OpenMMLab module must come from one distribution, but {sources}; {remedy}')
    _stand_in_for_missing_ops()
    _accept_mmcv_2_2()
    _resolve_bases_by_module()
    _join_custom_imports()
    _load_checkpoints_with_allowlist()
    _distribute_without_gpu()


def fix_mmseg() -> None:
    """Fix what cannot be fixed before ``mmseg.models`` is imported; imports it. Safe to call more than once."""
    _weighted_cross_entropy_with_ignored_pixels()
    _one_name_for_channel_conversion()


@contextmanager
def quiet_imports() -> Iterator[None]:
    """Silence a message that says nothing about the user's work while mmseg is imported.

    onedl-mmsegmentation <= 1.4.2 and onedl-mmpretrain <= 1.3.6 report a missing optional client ("Could not import
    OneDL") at debug level but without a logger, and mmengine prints what has no logger whatever its level. Such lines
    below INFO are dropped while the block runs. Delete it when importing mmseg prints nothing.
    Test: ``tests/test_compat.py::test_registration_prints_nothing``.
    """
    import logging

    import mmengine.logging as mm_logging

    original = mm_logging.print_log

    def print_log(msg, logger=None, level=logging.INFO):
        if logger is not None or level >= logging.INFO:
            original(msg, logger=logger, level=level)

    mm_logging.print_log = print_log
    try:
        yield
    finally:
        mm_logging.print_log = original


def _resolve_bases_by_module() -> None:
    """Make ``module::path`` in ``_base_`` mean the configs of that module, whoever distributes it.

    mmengine <= 0.10.12: ``MODULE2PACKAGE`` maps ``mmseg`` to the distribution name ``mmsegmentation``, which is absent
    when ``onedl-mmsegmentation`` provides the module, and lists no third-party package at all. Delete it when mmengine
    resolves configs by module. Test: ``tests/test_compat.py::test_bases_resolve_by_module``.
    """
    from mmengine.config import Config

    original = Config._get_cfg_path
    if getattr(original, 'mmdefect_shim', False):
        return

    def get_cfg_path(cfg_path: str, filename: str):
        module, sep, relative = cfg_path.partition('::')
        if not sep or module not in CONFIG_PACKAGES:
            return original(cfg_path, filename)
        path = config_root(module) / relative
        if not path.is_file():
            raise FileNotFoundError(f'`_base_` names {cfg_path!r}, but {path} does not exist.')
        # No scope: every name of ours and of mmseg is looked up in the default scope ``mmseg``.
        return str(path), ('mmpretrain' if module == 'mmpretrain' else None)

    get_cfg_path.mmdefect_shim = True
    Config._get_cfg_path = staticmethod(get_cfg_path)


def _join_custom_imports() -> None:
    """Let several bases of a config name modules to import; together they are imported.

    mmengine <= 0.10.12 rejects a key that two bases have, so that a model base with imports of its own (PoolFormer,
    ConvNeXt) cannot stand beside our runtime. Delete it when mmengine joins them. Test:
    ``tests/test_compat.py::test_imports_of_bases_are_joined``.
    """
    from mmengine.config import Config

    original = Config._file2dict
    if getattr(original, 'mmdefect_shim', False):
        return
    found: list[list] = []  # of each file that is being read: what it and its bases import

    def file2dict(*args, **kwargs):
        found.append([])
        try:
            settings, *others = original(*args, **kwargs)
            inner = found[-1]
        finally:
            found.pop()
        own = settings.pop('custom_imports', None)
        wanted = [*inner, *([own] if own else [])]
        if found:
            found[-1].extend(wanted)
        elif wanted:
            lists = [w['imports'] if isinstance(w['imports'], (list, tuple)) else [w['imports']] for w in wanted]
            allowed = all(w.get('allow_failed_imports', False) for w in wanted)
            names = list(dict.fromkeys(name for names in lists for name in names))
            settings['custom_imports'] = {'imports': names, 'allow_failed_imports': allowed}
        return (settings, *others)

    file2dict.mmdefect_shim = True
    Config._file2dict = staticmethod(file2dict)


def _load_checkpoints_with_allowlist() -> None:
    """Let upstream mmengine read its own checkpoints under torch >= 2.6, which unpickles weights only by default.

    mmengine <= 0.10.7 (open-mmlab/mmengine#1655) calls ``torch.load`` without saying how, and its checkpoints carry
    logged values beside the weights, which the restricted unpickler rejects. Local files are therefore read with the
    few harmless types those values consist of allowed, for that one call: a file that holds anything else is still
    rejected, and ``torch.load`` behaves as before everywhere else. ``onedl-mmengine`` has its own remedy and keeps it.
    Delete it with the support of mmengine <= 0.10.7. Test: ``tests/test_compat.py::TestCheckpointLoader``.
    """
    import torch
    from mmengine.runner import checkpoint

    if hasattr(checkpoint, '_safe_torch_load') or not hasattr(torch.serialization, 'safe_globals'):
        return
    checkpoint.CheckpointLoader.register_scheme('', loader=load_from_local, force=True)


def load_from_local(filename: str, map_location=None) -> dict:
    """Read a checkpoint file with tensors, numbers, strings, NumPy arrays and mmengine's log history.

    A file that holds any other object raises ``pickle.UnpicklingError``, which names its type.
    """
    import numpy as np
    import torch
    from mmengine.logging import HistoryBuffer

    def statistics_method(owner, name):  # takes the place of ``getattr``, by which pickle stores a method
        if owner is not HistoryBuffer or name.startswith('_'):
            raise ValueError(f'a checkpoint may only refer to methods of HistoryBuffer, got {name!r} of {owner!r}.')
        return getattr(owner, name)

    path = Path(filename).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f'{path} can not be found.')
    rebuild = np.zeros(1).__reduce__()[0]
    scalar = np.float64(0).__reduce__()[0]
    allowed = [HistoryBuffer, np.ndarray, np.dtype, slice, (statistics_method, 'builtins.getattr')]
    allowed += [type(np.dtype(kind)) for kind in '?bBhHiIlLefd']
    for function in (rebuild, scalar):  # numpy 2 renamed the module; files of both spellings exist
        allowed += [(function, f'numpy.{core}.multiarray.{function.__name__}') for core in ('core', '_core')]
    with torch.serialization.safe_globals(allowed):
        return torch.load(path, map_location=map_location, weights_only=True)


def _distribute_without_gpu() -> None:
    """Let the launchers of mmengine start several processes on a machine without a GPU, with gloo.

    mmengine <= 0.10.12 selects a CUDA device in every process, whatever the backend, and hands ``device_ids`` to the
    wrapper of a model on the CPU, which torch rejects. Without CUDA no device is selected, and a model on the CPU is
    wrapped without ``device_ids``. Delete it when mmengine does both. Test:
    ``tests/integration/test_distributed.py::test_the_launcher_starts_without_a_gpu``.
    """
    from mmengine.dist import utils as launchers
    from mmengine.model.wrappers import MMDistributedDataParallel

    if getattr(launchers._init_dist_pytorch, 'mmdefect_shim', False):
        return
    for name in ('_init_dist_pytorch', '_init_dist_mpi', '_init_dist_slurm'):
        setattr(launchers, name, _without_device_selection(getattr(launchers, name)))
    original = MMDistributedDataParallel.__init__

    @functools.wraps(original)
    def init(self, module, *args, **kwargs):
        if all(parameter.device.type == 'cpu' for parameter in module.parameters()):
            kwargs.pop('device_ids', None)
            kwargs.pop('output_device', None)
        original(self, module, *args, **kwargs)

    MMDistributedDataParallel.__init__ = init


def _without_device_selection(launch):
    """Wrap a launcher of mmengine so that it selects a CUDA device only where there is one."""
    import torch

    @functools.wraps(launch)
    def launch_anywhere(*args, **kwargs):
        select = torch.cuda.set_device
        if not torch.cuda.is_available():
            torch.cuda.set_device = lambda device: None
        try:
            launch(*args, **kwargs)
        finally:
            torch.cuda.set_device = select

    launch_anywhere.mmdefect_shim = True
    return launch_anywhere


def _accept_mmcv_2_2() -> None:
    """Import upstream mmseg 1.2.2 beside mmcv 2.2, which it rejects for its version number alone.

    mmsegmentation <= 1.2.2 (open-mmlab/mmsegmentation#3729) asserts mmcv < 2.2.0 at import, although only the number
    changed for it. mmcv shows version 2.1.0 while ``mmseg/__init__.py`` runs. Delete it with the support of
    mmsegmentation 1.2.2. Test: ``tests/test_compat.py::test_mmcv_2_2_passes_the_assert``.
    """
    import mmcv

    if 'mmseg' in sys.modules or 'mmsegmentation' not in installed_distributions('mmseg'):
        return
    version = mmcv.__version__
    if not version.startswith('2.2.'):
        return
    mmcv.__version__ = '2.1.0'
    try:
        import mmseg  # noqa: F401
    finally:
        mmcv.__version__ = version


def _weighted_cross_entropy_with_ignored_pixels() -> None:
    """Let mmseg's cross entropy take class weights where pixels are ignored.

    The mean of the weighted loss divides by the sum of the weights of the labelled pixels. mmsegmentation <= 1.2.2
    looks up a weight for the ignored label, too, and fails; onedl-mmsegmentation <= 1.4.2 fails with
    ``avg_non_ignore=True``. The divisor is handed over instead; both settings then give what ``torch`` gives. Delete it
    when both distributions do. Test: ``tests/test_compat.py::test_weighted_cross_entropy_equals_torch``.
    """
    from mmseg.models.losses import cross_entropy_loss

    original = cross_entropy_loss.cross_entropy
    if getattr(original, 'mmdefect_shim', False):
        return

    signature = inspect.signature(original)

    @functools.wraps(original)
    def cross_entropy(*args, **kwargs):
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        options = given.arguments
        if options['class_weight'] is not None and options['avg_factor'] is None and options['reduction'] == 'mean':
            label = options['label']
            options['avg_factor'] = options['class_weight'][label[label != options['ignore_index']]].sum()
        return original(*given.args, **given.kwargs)

    cross_entropy.mmdefect_shim = True
    cross_entropy_loss.cross_entropy = cross_entropy


def _one_name_for_channel_conversion() -> None:
    """Give upstream's ``SegDataPreProcessor`` the attribute under which onedl says whether it swaps red and blue.

    mmsegmentation <= 1.2.2 calls it ``channel_conversion``. Delete it with the support of mmsegmentation 1.2.2. Test:
    ``tests/test_compat.py::test_channel_conversion_has_one_name``.
    """
    from mmseg.models.data_preprocessor import SegDataPreProcessor

    if installed_distributions('mmseg').keys() <= {'mmsegmentation'}:
        SegDataPreProcessor._channel_conversion = property(lambda self: self.channel_conversion)


def _stand_in_for_missing_ops() -> None:
    """Let ``mmcv.ops`` be imported without its compiled part, of which most models need nothing.

    mmsegmentation <= 1.2.2 imports ``mmcv.ops`` with ``mmseg.models`` (``losses/focal_loss.py``), whether it is used or
    not, so that no model can be built with mmcv-lite; onedl-mmsegmentation <= 1.4.2 guards these imports and then
    rejects CCNet, PointRend and SAN, whose operators are written in Python. A stand-in for the compiled part makes the
    imports succeed; what is written in Python works, and a call into the compiled part says what to install. Delete it
    when ``mmcv.ops`` loads its compiled part on first use. Test: ``tests/test_compat.py::TestMissingOps``.
    """
    if 'mmcv._ext' not in sys.modules and importlib.util.find_spec('mmcv') is not None and not has_compiled_ops():
        sys.modules['mmcv._ext'] = _MissingOps()


class _MissingOps(ModuleType):
    """Has every operator by name; calling one raises."""

    def __init__(self):
        super().__init__('mmcv._ext', 'Stands in for the compiled operators of mmcv, which are not installed.')
        self.__spec__ = importlib.util.spec_from_loader('mmcv._ext', loader=None)

    def __getattr__(self, name: str):
        if name.startswith('__'):
            raise AttributeError(name)
        if name in ('get_compiler_version', 'get_compiling_cuda_version'):  # asked for by the environment report
            return lambda: 'n/a'

        def missing(*args, **kwargs):
            where = 'see "Compiled operators" in docs/install.md'
            what = f'`{name}` needs the compiled operators of mmcv, which are not installed; {where}.'
            raise RuntimeError(f'{what} Without them these do not work: {NEEDS_COMPILED_OPS}.')

        return missing
