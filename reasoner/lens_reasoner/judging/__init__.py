"""Ways to ask a model about criteria: in one call, one by one, by votes, by probabilities."""

from lens_reasoner.judging.decided import ByDecisions
from lens_reasoner.judging.mode import Ballot, JudgeMode
from lens_reasoner.judging.one_call import OneCall
from lens_reasoner.judging.single import PerCriterion
from lens_reasoner.judging.voting import ExtraVotes

__all__ = ["Ballot", "ByDecisions", "ExtraVotes", "JudgeMode", "OneCall", "PerCriterion"]
