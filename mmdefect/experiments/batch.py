"""What a batch is: a project, an ordered list of models, how many devices, which tools, which selection rule."""

import ast
import difflib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mmdefect.experiments.select import Rule
from mmdefect.files import read_json, write_json
from mmdefect.recipes import find_recipe, is_candidate


@dataclass(frozen=True)
class Tools:
    """The programs that do the work, each started as a command."""

    train: Path  # `CONFIG --work-dir DIR [--resume] [--launcher pytorch] [--cfg-options ...]`
    test: Path  # `CONFIG CHECKPOINT --work-dir DIR --out DIR [--cfg-options ...]`
    find_best: Path  # `--json_log_path F [options of the rule]`; prints the best iteration
    python: str  # interpreter that runs them

    def __post_init__(self) -> None:
        for name, path in (('train', self.train), ('test', self.test), ('find_best', self.find_best)):
            if not path.is_file():
                raise FileNotFoundError(f'the {name} tool must be an existing file, but {path} is not; give its path.')


@dataclass(frozen=True)
class Job:
    """One model of a batch."""

    name: str  # `<folder of the config>/<config stem>`, also its place in the tree
    config: Path  # its config file
    title: str = ''  # name for readers where the file name is none
    recipes: tuple[str, ...] = ()  # files that are laid over the config

    @property
    def label(self) -> str:
        return self.title or '+'.join([self.config.stem, *(Path(recipe).stem for recipe in self.recipes)])


@dataclass(frozen=True)
class Batch:
    """All that any engine needs to run the jobs of a project."""

    work_dir: Path  # folder of all projects
    project: str  # name of the batch and of its folder
    jobs: tuple[Job, ...]  # models in the order in which they start
    gpu_count: int  # devices a training gets; 0 trains on the CPU
    tools: Tools  # programs to start
    rule: Rule = field(default_factory=Rule)  # how the best checkpoint is chosen
    cfg_options: tuple[str, ...] = ()  # `key=value` overrides for training and test
    environment: dict[str, str] = field(default_factory=dict)  # additional environment variables of the children

    def __post_init__(self) -> None:
        if not re.fullmatch(r'\w[\w.+-]*', self.project):
            raise ValueError(
                f'the project name must be a folder name of letters, digits and _ . + -, got {self.project!r}.'
            )
        if self.gpu_count < 0:
            raise ValueError(f'`gpu_count` must be 0 (CPU) or the number of GPUs, got {self.gpu_count}.')
        if not self.jobs:
            raise ValueError('a batch must have at least one model, got none; name configs or set TEST_CANDI.')
        for option in self.cfg_options:
            if not re.match(r'[\w.]+=', option):
                raise ValueError(
                    f'an override (what follows `--`) must look like key=value, got {option!r}; correct it.'
                )
        configs: dict[str, Path] = {}
        for job in self.jobs:
            if job.name in configs:
                raise ValueError(
                    f'two models must not share the folder exp/{job.name}, but {configs[job.name]} and '
                    f'{job.config} do; name each config once or rename one.'
                )
            configs[job.name] = job.config

    @property
    def project_dir(self) -> Path:
        return self.work_dir / self.project

    def job_dir(self, job: Job) -> Path:
        return self.project_dir / 'exp' / job.name


def write_batch(path: Path, batch: Batch) -> None:
    """Write a batch as JSON, for a process on another machine."""
    write_json(path, json.loads(json.dumps(asdict(batch), default=str)))


def read_batch(path: Path) -> Batch:
    """Read what :func:`write_batch` wrote."""
    value = read_json(path)
    tools = {name: text if name == 'python' else Path(text) for name, text in value['tools'].items()}
    value['work_dir'], value['tools'] = Path(value['work_dir']), Tools(**tools)
    jobs = [job | {'config': Path(job['config']), 'recipes': tuple(job['recipes'])} for job in value['jobs']]
    value['jobs'] = tuple(Job(**job) for job in jobs)
    value['rule'], value['cfg_options'] = Rule(**value['rule']), tuple(value['cfg_options'])
    return Batch(**value)


def candidates(text: str) -> list[str]:
    """Split a list of models, one or several a line; ``#`` starts a comment, a backslash at a line's end is ignored."""
    lines = (line.split('#', 1)[0].rstrip().removesuffix('\\') for line in text.splitlines())
    return [entry for line in lines for entry in line.split()]


def find_jobs(entries: Iterable[str], roots: Sequence[Path], recipes: Sequence[str] = ()) -> tuple[Job, ...]:
    """Find the config of each entry: a path, or a path below one of ``roots``, with or without ``.py``.

    ``FileNotFoundError`` names all entries that are no config, with the most similar ones there are.
    """
    jobs, lost = [], []
    for text in entries:
        entry, *own = [text] if Path(text).is_file() else text.split('+')
        places = [Path(entry), *(root / entry for root in roots)]
        files = [path for place in places for path in (place, Path(f'{place}.py')) if path.is_file()]
        if files:
            path = Path(os.path.abspath(files[0]))  # not resolved: a link is a name of its own
            laid = tuple(str(find_recipe(name, roots)) for name in (*own, *recipes))
            name = '+'.join([path.stem, *(Path(recipe).stem for recipe in laid)])
            jobs.append(Job(f'{path.parent.name or "configs"}/{name}', path, recipes=laid))
        else:
            lost.append(entry)
    if lost:
        files = [(root, path) for root in roots for path in root.rglob('*.py')]
        hints = []
        for entry in lost:
            own = [root / Path(entry).parent for root in roots]
            fitting = [(root, path) for root, path in files if any(is_candidate(path, folder) for folder in own)]
            known = {path.relative_to(root).with_suffix('').as_posix() for root, path in fitting}
            near = difflib.get_close_matches(entry.removesuffix('.py'), known, n=3, cutoff=0.4)
            hints.append(f'{entry!r} (did you mean {", ".join(near)}?)' if near else repr(entry))
        raise FileNotFoundError(
            f'each model must be a config file or a path below {" or ".join(map(str, roots))}, but there is no '
            f'{"; ".join(hints)}.'
        )
    return tuple(jobs)


def fingerprint(config: Path, cfg_options: Sequence[str], recipes: Sequence[str] = ()) -> dict:
    """Describe what a training is made of, so that a changed config is noticed.

    Python files are compared by their syntax tree: comments and layout do not count. Bases of installed packages
    (``mmseg::...``) count by their name only. In ``files``, ``{path: hash}``, the leaf comes first, then the recipes.
    """
    files: dict[str, str] = {}
    for path in (config, *map(Path, recipes)):
        _hash_chain(path, files)
    return {'config': str(config), 'files': files, 'cfg_options': list(cfg_options)}


def differences(old: dict, new: dict) -> list[str]:
    """Say in which points two fingerprints differ; an empty list means the same training."""
    found = []
    # Compared in the order of the chain, not by path: a project may be moved together with its configs.
    if list(old['files'].values()) != list(new['files'].values()):
        changed = [path for path, value in new['files'].items() if value not in old['files'].values()]
        found.append('content of ' + ', '.join(changed) if changed else 'the list of _base_ files')
    if old['cfg_options'] != new['cfg_options']:
        found.append(f'overrides {old["cfg_options"]} then, {new["cfg_options"]} now')
    return found


def _hash_chain(path: Path, files: dict[str, str]) -> None:
    if str(path) in files:
        return
    if not path.is_file():
        files[str(path)] = 'missing'  # the training tool says so in its own words
        return
    text = path.read_text(encoding='utf-8')
    try:
        tree = ast.parse(text)
    except SyntaxError:  # a template, JSON or YAML, or a mistake that the training tool will name
        files[str(path)] = _sha(text)
        return
    files[str(path)] = _sha(ast.dump(tree))
    for base in _bases(tree):
        if '::' in base:
            files[base] = _sha(base)
        else:
            _hash_chain((path.parent / base).resolve(), files)


def _bases(tree: ast.Module) -> list[str]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == '_base_' for t in node.targets):
            try:
                value = ast.literal_eval(node.value)
            except ValueError:
                return []
            return [value] if isinstance(value, str) else list(value)
    return []


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
