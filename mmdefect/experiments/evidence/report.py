"""Make the report of a folder of runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mmdefect.experiments.evidence.gallery import make_cards
from mmdefect.experiments.evidence.markdown import render_markdown, write_figures
from mmdefect.experiments.evidence.page import lead, render_page
from mmdefect.experiments.evidence.results import make_results
from mmdefect.experiments.evidence.run import find_runs, load_run
from mmdefect.experiments.evidence.truth import Truth, paired_folders
from mmdefect.experiments.records import write_text
from mmdefect.experiments.states import read_title
from mmdefect.visualization.overlay import default_palette


@dataclass(frozen=True)
class SearchPlaces:
    """Where images and labels of the test set may be.

    Attributes:
        data_root: folder of the data set.
        images: folder of the test images, instead of a config.
        labels: folder of their label maps, paired by file name.
        classes: class names, the background first; by default those of the config or of the test log.
        from_config: gives the test set of a config file.
    """

    data_root: Path | None = None
    images: Path | None = None
    labels: Path | None = None
    classes: tuple[str, ...] = ()
    from_config: Callable[[Path], Truth] | None = None

    def find(self, config: Path, classes: tuple[str, ...]) -> Truth | None:
        """Return the test set of a run, ``None`` if nothing says where it is.

        Args:
            config: config file of the run, or its folder when it has none.
            classes: names that the test log knows.

        Raises:
            ValueError: if folders are given, but no class names are known.
        """
        images, labels = self.images, self.labels
        if images is None and config.is_file() and self.from_config is not None:
            return self.from_config(config)
        if images is None and self.data_root is not None:
            images, labels = self.data_root / 'img_dir' / 'test', self.data_root / 'ann_dir' / 'test'
        if images is None or labels is None:
            return None
        names = self.classes or classes
        if not names:
            raise ValueError(
                f'the class names must be known to read {labels}, but neither a config nor a test log has them; '
                'give --classes, the background first.'
            )
        return paired_folders(images, labels, names, default_palette(len(names)))


def run_names(found: list[Path], folder: Path) -> list[str]:
    """Return a name for each run: its title if it has one, else its path without the part that all share."""
    if found == [folder]:
        return [read_title(folder, folder.resolve().name)]
    parents = {path.parent for path in found}
    start = parents.pop() if len(parents) == 1 else folder
    names = [read_title(path, path.relative_to(start).as_posix().removeprefix('exp/')) for path in found]
    return names if len(set(names)) == len(names) else [path.relative_to(folder).as_posix() for path in found]


def write_report(
    folder: Path,
    page: Path,
    places: SearchPlaces,
    title: str | None = None,
    gallery: int | None = None,
    markdown: bool = False,
) -> list[Path]:
    """Write the page, and the Markdown version with figures if asked; return what was written.

    Args:
        folder: run, project, or folder of runs.
        page: HTML file.
        places: where the test set may be.
        title: headline.
        gallery: images of each kind; 8 for one run, 5 for several by default.
        markdown: also write ``<page>.md`` and ``figures/``.
    """
    found = find_runs(folder)
    truths: dict[str, Truth | None] = {}
    runs = []
    for path, name in zip(found, run_names(found, folder), strict=True):

        def truth_of(config: Path, classes: tuple[str, ...], name: str = name) -> Truth | None:
            truths[name] = places.find(config, classes)
            return truths[name]

        runs.append(load_run(path, name, truth_of))
    runs.sort(key=lambda run: run.name)
    results = make_results(runs)
    each = gallery if gallery is not None else 8 if len(runs) == 1 else 5
    cards = {run.name: make_cards(run, truths[run.name], each) for run in runs if run.counts is not None and each}
    headline = title or folder.resolve().name
    write_text(page, render_page(headline, results, cards))
    if not markdown:
        return [page]
    photos = write_figures(results, page.parent / 'figures')
    text = page.with_suffix('.md')
    write_text(text, render_markdown(headline, results, lead(results), photos, page.parent))
    return [page, text, *photos.values()]
