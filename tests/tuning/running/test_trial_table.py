import re

from tests.tuning.screens import printed
from tune_ddvae.tuning.running.trial_table import chosen, trial_table
from tune_ddvae.tuning.search import ranking
from tune_ddvae.tuning.trials import State, Trial


def table_of(study, width: int) -> list[str]:
    trials = list(study.trials.values())
    best = ranking.pareto_set(trials, study.spec.rank_by)
    table = trial_table(study.spec, trials, study.in_flight, best, width=width, room=50)
    return printed(table, width).splitlines()


def test_params_get_columns_where_these_fit_and_share_one_else(driven):
    wide, narrow = table_of(driven, 160), table_of(driven, 72)
    assert "beta" in wide[1]
    assert "sparse gamma 0." in "\n".join(wide)
    assert narrow[1].rstrip().endswith("params")
    assert "beta 0." in "\n".join(narrow)


def test_the_stars_stand_at_the_best(driven):
    starred = {int(line.split()[1]) for line in table_of(driven, 120) if re.match(r"\*\s+\d", line)}
    front = ranking.pareto_set(driven.trials.values(), driven.spec.rank_by)
    assert starred == {trial.number for trial in front}


def test_no_group_of_trials_crowds_out_the_others():
    training = [Trial(n, {}, {}) for n in range(100)]
    ended = [
        Trial(n, {}, {}, state=State.COMPLETE, values=(0.0,), ended=float(n))
        for n in range(100, 400)
    ]
    best = ended[:50]
    shown = chosen([*training, *ended], set(range(100)), best, 30)
    assert len(shown) == 30
    assert [t.number for t in shown[:10]] == list(range(10))
    assert shown[10:20] == best[:10]
    assert shown[20].number == 399
    assert len(chosen([*training[:3], *ended], {0, 1, 2}, best, 30)) == 30
