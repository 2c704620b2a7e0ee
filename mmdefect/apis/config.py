"""Read a leaf config, lay recipes over it, apply overrides, and compose it."""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from mmdefect import compat
from mmdefect.apis.compose import SPREAD, compose
from mmdefect.experiments.settings import merge, stretch_schedules
from mmdefect.recipes import find_recipe, is_candidate

#: A recipe that states the second key of such a table replaces it: the arguments of another loss mean nothing to it.
WHOLE = {'loss_decode': 'type', 'synthesis': 'transforms'}

#: Top-level keys that a config need not have and that still mean something: to us, and to mmengine's Runner.
OPTIONAL_KEYS = (
    *SPREAD,
    *('work_dir', 'load_from', 'resume', 'launcher', 'amp', 'tta', 'cpu_channels_last', 'random_weights', 'randomness'),
    *('experiment_name', 'custom_hooks', 'default_hooks', 'param_scheduler', 'auto_scale_lr', 'model_wrapper_cfg'),
    *('find_unused_parameters', 'compile', 'strategy', 'log_level', 'log_processor', 'env_cfg', 'visualizer'),
    *(f'{split}_{kind}' for split in ('train', 'val', 'test') for kind in ('dataloader', 'evaluator', 'cfg')),
)


def load_config(path: str | Path, cfg_options: dict | None = None, recipes: Sequence[str] = ()) -> Config:
    """Read ``path``, lay ``recipes`` over it, apply ``cfg_options``, compose, and register mmdefect's components.

    Args:
        path: leaf config; ``leaf.py+recipe`` also names recipes, which come before the others.
        cfg_options: overrides with dotted keys; the last word.
        recipes: files of ``configs/_base_`` by name (or paths), each laid over what stands before it as a child config
            is, except that a table of another ``type`` replaces the one below it.

    Raises:
        FileNotFoundError: if there is no such config; the message lists the ones with a similar name.
        ValueError: if there is no such recipe, or an option puts a text in the place of a table of settings.
    """
    compat.apply()
    path = Path(path)
    if not path.is_file() and '+' in path.name:
        name, *own = path.name.split('+')
        path, recipes = path.with_name(name), (*own, *recipes)
    if not path.is_file():
        raise FileNotFoundError(_missing_config(path))
    try:
        cfg = Config.fromfile(str(path))
    except KeyError as err:
        if 'Duplicate key' not in str(err):
            raise
        raise ValueError(
            f'a top-level key must come from one base, but bases of {path} share {str(err).split("keys: ")[-1][:-1]}; '
            "name model bases only, or take the model of a whole config with `model_from = 'mmseg::FOLDER/CONFIG.py'`."
        ) from err
    if recipes:
        cfg = _lay_over(cfg, recipes)
    cfg_options = dict(cfg_options or {})
    cfg.model_from = cfg_options.pop('model_from', None) or cfg.get('model_from')
    if cfg.model_from:
        _take_model(cfg)
    cfg.pop('model_from')
    encoder = (cfg_options or {}).get('model.backbone')
    if isinstance(encoder, str) and cfg.get('model', {}).get('type') == 'CutPasteClassifier':  # by name
        from mmdefect.models.cutpaste_classifier import encoder_config

        cfg_options = {**cfg_options, 'model.backbone': dict(encoder_config(encoder), _delete_=True)}
    if cfg_options:
        _check_options(cfg, cfg_options)
        former = (cfg.get('train_cfg') or {}).get('max_iters')
        cfg.merge_from_dict(cfg_options)
        if former and not any(key.split('.')[0] == 'param_scheduler' for key in cfg_options):
            stretch_schedules(cfg.get('param_scheduler') or [], cfg.train_cfg.get('max_iters', former) / former)
    import mmdefect.registration  # noqa: F401  (also when the config forgot its custom_imports)

    compose(cfg)
    if cfg_options:
        cfg.merge_from_dict({k: v for k, v in cfg_options.items() if k.split('.')[0] not in SPREAD})
    return cfg


def _lay_over(cfg: Config, recipes: Sequence[str]) -> Config:
    """Return the config with recipes over it, named ``leaf+recipe``, so that its default folder and its dump tell."""
    settings, path = cfg.to_dict(), Path(cfg.filename)
    files = [find_recipe(name, [compat.config_root('mmdefect')]) for name in recipes]
    for file in files:
        change = Config.fromfile(str(file)).to_dict()
        for key, named_by in WHOLE.items():
            if isinstance(change.get(key), dict) and named_by in change[key]:
                change[key]['_delete_'] = True
        settings = merge(settings, change)
    name = '+'.join([path.stem, *(file.stem for file in files)])
    return Config(settings, cfg_text=cfg.text, filename=str(path.with_name(f'{name}.py')))


def _take_model(cfg: Config) -> None:
    """Put the model of the config that ``model_from`` names under ``cfg``, with what that model cannot do without.

    That is its optimiser, unless it is plain SGD, which the schedule knows as well, and the edges that PIDNet learns.
    Settings of the leaf's own ``model``, ``own_optimizer`` and ``own_transforms`` are the later word.
    """
    source = cfg.model_from
    module, _, relative = source.rpartition('::')
    path = compat.config_root(module) / relative if module else Path(source)
    if not path.is_file():
        known = {p.name: p for p in (path.parent if path.parent.is_dir() else path.parent.parent).rglob('*.py')}
        close = get_close_matches(path.name, known, n=3, cutoff=0.4)
        names = ', '.join(f'{known[name].parent.name}/{name}' for name in close)
        hint = f'did you mean {names}?' if close else 'check the path.'
        raise FileNotFoundError(f'`model_from` must name a config, but there is no {path}; {hint}')
    given = Config.fromfile(str(path), import_custom_modules=False)
    if not given.get('model'):
        raise ValueError(f'`model_from` must name a config with a model, but {source} has none; name another leaf.')
    cfg.model = Config._merge_a_into_b(cfg.get('model') or ConfigDict(), given.model)
    not_its_own = ('type', 'loss_scale', 'dtype')  # of mixed precision, which depends on the device
    wrapper = {k: v for k, v in (given.get('optim_wrapper') or {}).items() if v is not None and k not in not_its_own}
    if cfg.get('own_optimizer') is None and wrapper and (len(wrapper) > 1 or wrapper['optimizer']['type'] != 'SGD'):
        cfg.own_optimizer = ConfigDict(wrapper)


def plain(value: Any) -> Any:
    """Return settings as plain dicts and lists; tuples become lists, because a dump makes no difference."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def _check_options(cfg: Config, options: dict) -> None:
    """Reject what would be set without effect or fail deep in whatever reads the settings.

    That is an unknown key of the whole config, a key of a table that only misspells one that is there, and a text in
    the place of a table, as which a dict arrives from the command line.
    """
    for key, value in options.items():
        node, place = cfg, []
        for part in key.split('.'):
            known = [*node, *OPTIONAL_KEYS] if not place else list(node) if isinstance(node, dict) else []
            if part not in known and (not place or get_close_matches(part, known, n=1, cutoff=0.85)):
                close = get_close_matches(part, known, n=3, cutoff=0.7)
                hint = f'did you mean {" or ".join(".".join([*place, name]) for name in close)}?' if close else ''
                raise ValueError(
                    f'an option must name a setting of the config, but {cfg.filename} has no `{key}`; '
                    f'{hint or "the file that a training leaves in its work dir holds all of them."}'
                )
            node = node.get(part) if isinstance(node, (Config, dict)) else None
            place.append(part)
        if isinstance(node, dict) and node and isinstance(value, str):
            raise ValueError(
                f'`{key}` is a table of settings ({", ".join(node)}) and cannot become the text {value!r}. Set one of '
                f'them at a time, such as {key}.{next(iter(node))}=VALUE, or lay a config over this one with `--with`.'
            )


def _missing_config(path: Path) -> str:
    root = compat.config_root('mmdefect')
    known = {p.stem: p for p in root.rglob('*.py') if is_candidate(p, path.parent)}
    close = get_close_matches(path.stem, known, n=3, cutoff=0.4)
    hint = f'did you mean {", ".join(str(known[c]) for c in close)}?' if close else f'leaf configs lie under {root}.'
    return f'the config must be an existing file, but {path} is not; {hint}'
