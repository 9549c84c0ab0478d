"""The chart as it is rendered for each file of values, kept to be read in a change's review.

    python -m tests.chart.golden     writes tests/chart/golden/ anew

Knows: which rendering belongs to which file.
Must not know: whether it is right.
"""

import tempfile
from pathlib import Path

from tests.chart.build import ensure
from tests.chart.helm import CHART, Helm

FOLDER = Path(__file__).parent / "golden"


def path_of(values: Path) -> Path:
    """Where the rendering for a file of values is kept."""
    return FOLDER / f"{values.name.removesuffix('-values.yaml')}.yaml"


def rendered(helm: Helm, values: Path) -> str:
    """The rendering."""
    return helm.text("-f", values)


def main() -> None:
    """Write all of them."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        helm = Helm(ensure().helm, Path(folder))
        for values in sorted((CHART / "ci").iterdir()):
            path_of(values).write_text(rendered(helm, values))


if __name__ == "__main__":
    main()
