from tests.tuning import simulated
from tests.tuning.screens import first_step
from tests.tuning.simulated import drive, make_spec, open_study
from tune_ddvae.tuning.running.news import Best, News
from tune_ddvae.tuning.search import ranking


def test_a_trial_carried_over_is_not_told_again_and_an_unfinished_one_goes_on(study, tmp_path):
    first_step(study)
    study.record.flush()
    again = open_study(tmp_path, make_spec(), trials=2)
    news = News(again, Best(again.spec))
    assert list(news.lines(brief=False)) == []
    assignment = again.next_assignment()
    assert [line[:30] for line in news.lines(brief=False)] == ["trial 0 goes on after epoch 1:"]
    simulated.train(again, assignment)
    drive(again)
    assert sum("trial 0" in line for line in news.lines(brief=False)) == 1
    again.record.close()
    done = open_study(tmp_path, make_spec(), trials=2)
    assert list(News(done, Best(done.spec)).lines(brief=False)) == []
    done.record.close()


def test_comparing_each_trial_once_gives_the_same_pareto_set(driven):
    best, trials = Best(driven.spec), list(driven.trials.values())
    for count in range(len(trials) + 1):
        found = best.take(trials[:count])
        assert found == ranking.pareto_set(trials[:count], driven.spec.rank_by)
