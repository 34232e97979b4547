"""How a judge that is a model is asked: in one call, one by one, in votes, by decisions."""

from lens_reasoner.judging.decided import ByDecisions
from lens_reasoner.judging.mode import Ballot, JudgeMode
from lens_reasoner.judging.one_call import OneCall
from lens_reasoner.judging.single import PerCriterion
from lens_reasoner.judging.voting import ExtraVotes

__all__ = ["Ballot", "ByDecisions", "ExtraVotes", "JudgeMode", "OneCall", "PerCriterion"]
