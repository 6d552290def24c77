"""Who scores candidates. A judge is one file and one line here; what a score means is decided in that file."""

from selfreward.judges import ensemble, length, rubric, verifier
from selfreward.judges.base import Judge

JUDGES: dict[str, Judge] = {
    "rubric": Judge(rubric.judge, rubric.TEXTS, rubric.HIGHEST),
    "length": Judge(length.judge, {}, length.HIGHEST),
    "verifier": Judge(verifier.judge, {}, verifier.HIGHEST),
    "ensemble": Judge(ensemble.judge, rubric.TEXTS, ensemble.HIGHEST),
}
