"""``generate.py support``: choose the few labelled images that a defect type is learned from."""

import argparse
import dataclasses
from pathlib import Path

import mmdefect.registration  # noqa: F401  (layouts are registered data sets)
from mmdefect.datasets.file_facts import find_facts
from mmdefect.datasets.layouts import build_layout
from mmdefect.datasets.presence import class_presence
from mmdefect.datasets.samples import relative_path
from mmdefect.datasets.split_file import read_split, write_split
from mmdefect.datasets.transforms.loading import LoadDefectAnnotations
from mmdefect.diffusion.support import Candidate, SupportSet, check_held_out, choose_shots, write_support

#: Splits that numbers are measured on.
EVALUATION = ('val', 'test', 'outer_val')


def add_support(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('data_root', help='folder of the data set')
    parser.add_argument('--layout', required=True, help='mvtec, visa, wta, combined, folder, or a registered data set')
    parser.add_argument('--category', nargs='+', help='categories of mvtec or visa (default: all)')
    parser.add_argument('--division', help='of VisA: 1cls, 2cls_fewshot, 2cls_highshot or a CSV file (default: 1cls)')
    parser.add_argument('--split-file', type=Path, help='JSON of tools/split_dataset.py (default: the folders say it)')
    parser.add_argument('--split', default='train', help='split that shots come from; default train')
    parser.add_argument(
        '--from-test',
        action='store_true',
        help='allow an evaluation split; its shots are taken out of it, in the split file',
    )
    parser.add_argument('--k', type=int, default=3, help='shots of each type; default 3')
    parser.add_argument('--types', nargs='+', help='only these defect types')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--out', type=Path, required=True, help='folder of the support set; must not exist')


def run_support(args: argparse.Namespace) -> None:
    """Choose k images of each defect type and copy them with their masks into a support set.

    Shots come from the training split. Where all defects lie in a test split, --from-test takes shots there and moves
    them to the split `support` of the split file, so that no later evaluation sees them.

        python tools/generate.py support data/mvtec_ad --layout mvtec --category bottle --split-file splits.json \\
            --k 3 --out support/bottle
        python tools/generate.py support data/wta --layout wta --k 3 --out support/wta
    """
    source = Source(args.data_root, args.layout, args.split_file, args.category, args.division)
    support = make_support(source, args.out, args.k, args.seed, args.split, args.from_test, args.types)
    counts = {t: sum(s.type == t for s in support.shots) for t in support.types}
    print(f'written: {args.out}: ' + ', '.join(f'{count} {name}' for name, count in counts.items()))
    if args.from_test and args.split != 'train':
        print(f'moved out of {args.split!r} in {args.split_file}: make numbers again that were measured on it.')


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set that shots are chosen from: its folder, its layout, what divides it, its categories."""

    data_root: str
    layout: str
    split_file: Path | None = None
    category: list[str] | None = None
    division: str | None = None

    def build(self, split: str | None = None):
        """Return the data set of a split."""
        options = {key: value for key in ('category', 'division') if (value := getattr(self, key))}
        if self.layout in ('mvtec', 'visa'):
            options['classes'] = 'types'
        if self.split_file is not None and split is not None:
            options['split_file'] = str(self.split_file)
        dataset = build_layout(self.layout, self.data_root, split=split, **options)
        dataset.full_init()
        return dataset

    def evaluation_hashes(self) -> dict[str, dict[str, str]]:
        """Return, for each split that numbers are measured on, the path of each image by its hash."""
        if self.split_file is not None:
            splits = read_split(self.split_file).splits
            return {name: {e.sha256: e.image for e in splits[name]} for name in EVALUATION if name in splits}
        samples = self.build().scan()
        found = {name: [s.img_path for s in samples if s.own_split == name] for name in EVALUATION}
        hashes = {name: find_facts('sha256', paths) for name, paths in found.items() if paths}
        return {name: {digest: path for path, digest in facts.items()} for name, facts in hashes.items()}


def make_support(
    source: Source,
    out: Path,
    k: int = 3,
    seed: int = 0,
    split: str = 'train',
    from_test: bool = False,
    types: list[str] | None = None,
) -> SupportSet:
    """Choose ``k`` shots of each type and write the support set; its folder ``out`` must not exist.

    ``from_test`` allows a split that is evaluated on; the split file then loses the shots.
    """
    if split in EVALUATION and not from_test:
        raise ValueError(
            f'shots must come from a training split, got {split!r}; if all defects lie there, --from-test takes them '
            'out of every later evaluation.'
        )
    if split in EVALUATION and source.split_file is None:
        raise ValueError(
            '`--from-test` must have a split file to write into; make one with tools/split_dataset.py and name it with '
            '--split-file.'
        )
    candidates, infos = _find_candidates(source.build(split), source.data_root)
    chosen = choose_shots(candidates, k, seed, types)
    held_out = source.evaluation_hashes()
    if from_test:
        held_out.pop(split, None)
    check_held_out(chosen, held_out)
    load = LoadDefectAnnotations()
    masks = [load(dict(infos[shot.source]))['gt_seg_map'] == shot.class_id for shot in chosen]
    origin = dict(data_root=str(source.data_root), layout=source.layout, split=split)
    origin['split_file'] = source.split_file and str(source.split_file)
    support = write_support(out, chosen, masks, seed, origin)
    if split in EVALUATION:
        take_out(source.split_file, split, {c.sha256 for c in chosen}, str(out))
    return support


def take_out(split_file: Path, split: str, hashes: set[str], note: str) -> None:
    """Move images from a split to the split ``support``, also copies of the same content."""
    division = read_split(split_file)
    splits = {name: list(entries) for name, entries in division.splits.items()}
    moved = [e for e in splits[split] if e.sha256 in hashes]
    splits[split] = [e for e in splits[split] if e.sha256 not in hashes]
    splits['support'] = [*splits.get('support', []), *moved]
    taken = dict(taken_from=split, images=[e.image for e in moved], used_by=note)
    notes = {**division.notes, 'support': [*division.notes.get('support', []), taken]}
    write_split(dataclasses.replace(division, splits=splits, notes=notes), split_file, overwrite=True)


def _find_candidates(dataset, data_root: str) -> tuple[list[Candidate], dict[str, dict]]:
    """Return what shows a defect, and what the data set knows of each image, by its path below ``data_root``."""
    names = dataset.metainfo['classes']
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    hashes = find_facts('sha256', [info['img_path'] for info in infos])
    candidates, by_source = [], {}
    for info, classes in zip(infos, class_presence(dataset), strict=True):
        path, source = info['img_path'], relative_path(info['img_path'], data_root)
        by_source[source] = info
        defects = [c for c in sorted(classes) if 0 < c < len(names)]
        candidates += [Candidate(names[c], c, path, source, hashes[path]) for c in defects]
    return candidates, by_source
