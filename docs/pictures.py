"""Draw the pictures of docs/specguard.md from the recorded calibration of the bundled pair.

The plots are those of its report page; `stet calibrate --from` writes the page itself.
"""

from pathlib import Path

from stet.calibration.report.plots import plots
from stet.calibration.result import Calibration

ROOT = Path(__file__).resolve().parent.parent
RECORDED = ROOT / "src" / "stet" / "bundled" / "specguard.json"
SHOWN = ("signals", "reliability", "thresholds")


def draw(recorded: Path, folder: Path) -> list[Path]:
    """Write the plots of a calibration as `calibration-NAME.svg`."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for picture in plots(Calibration.load(recorded)):
        if picture.name in SHOWN:
            path = folder / f"calibration-{picture.name}.svg"
            path.write_text(picture.svg(), encoding="utf-8")
            written.append(path)
    return written


def main() -> None:
    if not RECORDED.exists():
        print(f"skipped: {RECORDED.name} is not recorded")
        return
    for path in draw(RECORDED, ROOT / "docs" / "images"):
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
