"""How far a judge agrees with human labels."""

from lens_reasoner.calibration.labels import HumanLabel, load_labels
from lens_reasoner.calibration.measure import calibrate
from lens_reasoner.calibration.recorded import recorded_verdicts
from lens_reasoner.calibration.report import (
    Agreement,
    CalibrationReport,
    Distrusted,
    Rate,
    TrustRule,
)

__all__ = [
    "Agreement",
    "CalibrationReport",
    "Distrusted",
    "HumanLabel",
    "Rate",
    "TrustRule",
    "calibrate",
    "load_labels",
    "recorded_verdicts",
]
