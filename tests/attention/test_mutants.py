"""The emulator notices each planted mistake, in the way that its row of the table says."""

import re
import shutil
import sys

import pytest

from notes_lib.attention.cuda.emulator import edited
from notes_lib.attention.cuda.emulator.mutants import MUTANTS
from notes_lib.attention.cuda.emulator.problems import symptom

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("g++") is None,
    reason="the emulator wants Linux and g++",
)
SOUND = list(dict.fromkeys((mutant.problem, mutant.kernels) for mutant in MUTANTS))


def name(mutant):
    return re.sub(r"\W+", "-", mutant.what)


@pytest.mark.parametrize("mutant", MUTANTS, ids=name)
def test_a_mistake_is_noticed(mutant):
    found = mutant.symptom(late=True)
    assert found is not None and mutant.found in found
    assert (mutant.symptom(late=False) is None) == mutant.only_late


@pytest.mark.parametrize("problem, kernels", SOUND)
def test_the_same_problems_show_nothing_without_a_mistake(problem, kernels):
    assert symptom(problem, kernels) is symptom(problem, kernels, late=True) is None


def test_each_mistake_is_one_change_and_no_two_are_the_same():
    assert len({mutant.edits for mutant in MUTANTS}) == len(MUTANTS)
    assert len({mutant.what for mutant in MUTANTS}) == len(MUTANTS)
    sound = edited(())
    for mutant in MUTANTS:
        changed = edited(mutant.edits)  # ValueError unless the text occurs once
        assert [file for file in sound if sound[file] != changed[file]] == [mutant.edits[0][0]]
